"""Reads a recorded nuScenes root with the official devkit and checks that it means what it says.

It needs the devkit (numpy below 2, so an environment of its own) and nothing of this project:

    python3.11 -m venv /tmp/devkit && /tmp/devkit/bin/pip install nuscenes-devkit
    perception sim --duration 15 --record out/drive
    /tmp/devkit/bin/python tests/devkit/check_root.py out/drive

Checked: every reference between tables, every file, the chains of samples, sensor data and annotations, lidar points in
each box (equal to `num_lidar_pts`), radar files, visibility, the map, and the detection benchmark on results made from
the ground truth (AP 1 for each class that occurs). Prints one line a check; exit code 1 if one fails.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.config import config_factory  # type: ignore[import-not-found]
from nuscenes.eval.detection.evaluate import DetectionEval  # type: ignore[import-not-found]
from nuscenes.eval.detection.utils import category_to_detection_name  # type: ignore[import-not-found]
from nuscenes.nuscenes import NuScenes  # type: ignore[import-not-found]
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud  # type: ignore[import-not-found]
from nuscenes.utils.geometry_utils import points_in_box  # type: ignore[import-not-found]

Row = dict[str, Any]

REFERENCES = {
    "sample": {"scene_token": "scene"},
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
    },
    "calibrated_sensor": {"sensor_token": "sensor"},
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance", "visibility_token": "visibility"},
    "instance": {
        "category_token": "category",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    },
}
CHAINED = ("sample", "sample_data", "sample_annotation")


class CheckError(Exception):
    """A check that did not hold."""


def check_references(nusc: NuScenes) -> str:
    """Every token leads somewhere, tokens are unique, and `prev` and `next` answer each other."""
    rows = 0
    for table in nusc.table_names:
        if len({row["token"] for row in getattr(nusc, table)}) != len(getattr(nusc, table)):
            raise CheckError(f"{table}: tokens are not unique")
    for table, fields in REFERENCES.items():
        for row in getattr(nusc, table):
            rows += 1
            for field, target in fields.items():
                nusc.get(target, row[field])
    for table in CHAINED:
        for row in getattr(nusc, table):
            if row["next"] and nusc.get(table, row["next"])["prev"] != row["token"]:
                raise CheckError(f"{table} {row['token']}: its next row does not lead back")
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            annotation = nusc.get("sample_annotation", token)
            token, count = annotation["next"], count + 1
        if count != instance["nbr_annotations"] or annotation["token"] != instance["last_annotation_token"]:
            raise CheckError(f"instance {instance['token']}: {count} annotations, not {instance['nbr_annotations']}")
    return f"{rows} rows"


def check_files(nusc: NuScenes) -> str:
    """Every file is there and readable; each sample's boxes can be brought into each sensor's frame."""
    counts: Counter[str] = Counter()
    for row in nusc.sample_data:
        path = Path(nusc.dataroot) / row["filename"]
        if not path.is_file():
            raise CheckError(f"{path} is missing")
        counts[row["sensor_modality"]] += 1
        if row["sensor_modality"] == "lidar":
            if not np.isfinite(LidarPointCloud.from_file(str(path)).points).all():
                raise CheckError(f"{path} has points that are not finite")
        elif row["sensor_modality"] == "radar":
            counts["radar returns"] += RadarPointCloud.from_file(str(path)).nbr_points()
    boxes = 0
    for sample in nusc.sample:
        for token in sample["data"].values():
            boxes += len(nusc.get_sample_data(token)[1])
    return ", ".join(f"{count} {name}" for name, count in counts.items()) + f", {boxes} boxes in sensor frames"


def check_lidar_counts(nusc: NuScenes) -> str:
    """The devkit finds exactly `num_lidar_pts` points in each box, over all lidars of the keyframe."""
    wrong: list[str] = []
    points, annotations, seen = 0, 0, 0
    for sample in nusc.sample:
        found: Counter[str] = Counter()
        for token in sample["data"].values():
            if nusc.get("sample_data", token)["sensor_modality"] != "lidar":
                continue
            path, boxes, _ = nusc.get_sample_data(token)
            cloud = LidarPointCloud.from_file(path).points[:3].astype(np.float64)
            found.update({box.token: int(points_in_box(box, cloud).sum()) for box in boxes})
        for token in sample["anns"]:
            recorded = nusc.get("sample_annotation", token)["num_lidar_pts"]
            annotations, points, seen = annotations + 1, points + recorded, seen + (recorded > 0)
            if found[token] != recorded:
                wrong.append(f"{token}: {recorded} recorded, {found[token]} found")
    if wrong:
        raise CheckError(f"{len(wrong)} of {annotations} differ, among them {wrong[:3]}")
    return f"{annotations} of {annotations} equal, {points} points in {seen} boxes"


def check_sweeps(nusc: NuScenes) -> str:
    """Sweeps of the past can be gathered around the last sample."""
    sample, sizes = nusc.sample[-1], {}
    lidar = next(channel for channel, token in sample["data"].items() if _modality(nusc, token) == "lidar")
    for channel, token in sample["data"].items():
        kind = {"lidar": LidarPointCloud, "radar": RadarPointCloud}.get(_modality(nusc, token))
        if kind is not None:
            cloud, _ = kind.from_file_multisweep(nusc, sample, channel, lidar, nsweeps=5)
            sizes[channel] = cloud.nbr_points()
    return ", ".join(f"{channel} {size}" for channel, size in sizes.items())


def check_visibility(nusc: NuScenes) -> str:
    levels = Counter(nusc.get("visibility", row["visibility_token"])["level"] for row in nusc.sample_annotation)
    return ", ".join(f"{level} {count}" for level, count in sorted(levels.items()))


def check_map(nusc: NuScenes) -> str:
    """The mask loads; where it is not blank, the ego is on it."""
    mask = nusc.map[0]["mask"]
    share = float((mask.mask() > 0).mean())
    if share == 0.0:
        return "blank"
    places = np.array([row["translation"] for row in nusc.ego_pose])
    on_mask = float(mask.is_on_mask(places[:, 0], places[:, 1]).mean())
    if on_mask < 0.95:
        raise CheckError(f"only {on_mask:.1%} of the ego's places are on the drivable area")
    return f"{mask.mask().shape} pixels, {share:.1%} drivable, {on_mask:.1%} of the ego's places on it"


def check_evaluation(nusc: NuScenes, split: str) -> str:
    """The detection benchmark gives AP 1 and no error to the ground truth, in each class that it counts."""
    results = {sample["token"]: _as_results(nusc, sample) for sample in nusc.sample}
    meta = {f"use_{kind}": kind in ("camera", "lidar", "radar") for kind in ("camera", "lidar", "radar", "map")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        path.write_text(json.dumps({"meta": {**meta, "use_external": False}, "results": results}))
        config = config_factory("detection_cvpr_2019")
        evaluation = DetectionEval(nusc, config, str(path), split, folder, verbose=False)
        metrics, _ = evaluation.evaluate()
    counts = Counter(box.detection_name for box in evaluation.gt_boxes.all)
    ap = {name: float(np.mean(list(metrics.serialize()["label_aps"][name].values()))) for name in counts}
    if low := {name: value for name, value in ap.items() if value < 1.0}:
        raise CheckError(f"AP of the ground truth: {low}")
    return ", ".join(f"{name} 1.000 ({counts[name]})" for name in ap)


def _as_results(nusc: NuScenes, sample: Row) -> list[Row]:
    """A sample's annotations as detections. Those without any point are no ground truth in the benchmark."""
    made = []
    for token in sample["anns"]:
        row = nusc.get("sample_annotation", token)
        name = category_to_detection_name(row["category_name"])
        if name is None or row["num_lidar_pts"] + row["num_radar_pts"] == 0:
            continue
        attributes = [nusc.get("attribute", attribute)["name"] for attribute in row["attribute_tokens"]]
        made.append(
            {
                **{field: row[field] for field in ("sample_token", "translation", "size", "rotation")},
                "velocity": np.nan_to_num(nusc.box_velocity(token)[:2]).tolist(),
                "detection_name": name,
                "detection_score": 0.9,
                "attribute_name": attributes[0] if attributes else "",
            }
        )
    return made


def _modality(nusc: NuScenes, token: str) -> str:
    return str(nusc.get("sample_data", token)["sensor_modality"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a nuScenes root with the official devkit.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--version", help="folder of tables [default: the one there is]")
    parser.add_argument("--split", default="all", help="split to evaluate [default: all]")
    arguments = parser.parse_args()
    version = arguments.version or next(path.parent.name for path in sorted(arguments.root.glob("*/scene.json")))
    nusc = NuScenes(version=version, dataroot=str(arguments.root), verbose=False)
    checks: dict[str, Callable[[], str]] = {
        "references": lambda: check_references(nusc),
        "files": lambda: check_files(nusc),
        "lidar points in boxes": lambda: check_lidar_counts(nusc),
        "sweeps": lambda: check_sweeps(nusc),
        "visibility": lambda: check_visibility(nusc),
        "map": lambda: check_map(nusc),
        "detection benchmark": lambda: check_evaluation(nusc, arguments.split),
    }
    failures = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check()}")
        except (CheckError, KeyError, AssertionError) as error:
            failures += 1
            print(f"FAILED  {name}: {error!r}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
