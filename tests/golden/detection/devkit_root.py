"""Synthetic drives as a nuScenes root and result files, and the official evaluation of them.

Runs in the environment of the nuscenes-devkit.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.common.config import config_factory  # type: ignore[import-not-found]
from nuscenes.eval.detection.evaluate import DetectionEval  # type: ignore[import-not-found]
from nuscenes.eval.tracking.evaluate import TrackingEval  # type: ignore[import-not-found]
from nuscenes.nuscenes import NuScenes  # type: ignore[import-not-found]
from PIL import Image
from pyquaternion import Quaternion  # type: ignore[import-not-found]

from tests.golden.detection.synthetic_drives import CATEGORIES, PERIOD_S, RACK, Annotation, Detected, Drive, Sample

VERSION, SPLIT = "v1.0-mini", "mini_val"
SCENES = ("scene-0103", "scene-0916")
"""The scenes of the split, by whose names the devkit finds what to evaluate."""
ATTRIBUTE_NAMES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
)
Row = dict[str, Any]


def sample_token(drive: int, index: int) -> str:
    return f"sample-{drive}-{index:02d}"


def write_root(root: Path, drives: list[Drive]) -> NuScenes:
    """The tables of a nuScenes root with these drives (a lidar whose files are not there), loaded by the devkit."""
    tables = _fixed_tables()
    for number, drive in enumerate(drives):
        _add_drive(tables, number, drive)
    folder = root / VERSION
    folder.mkdir(parents=True)
    Image.new("L", (1, 1)).save(root / "map.png")
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return NuScenes(version=VERSION, dataroot=str(root), verbose=False)


def _fixed_tables() -> dict[str, list[Row]]:
    categories = [*CATEGORIES.values(), RACK]
    return {
        "category": [{"token": name, "name": name, "description": ""} for name in categories],
        "attribute": [{"token": name, "name": name, "description": ""} for name in ATTRIBUTE_NAMES],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": "lidar",
                "sensor_token": "lidar",
                "translation": [0, 0, 1.8],
                "rotation": [1, 0, 0, 0],
                "camera_intrinsic": [],
            }
        ],
        "log": [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "map.png"}],
        **{name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")},
    }


def _add_drive(tables: dict[str, list[Row]], number: int, drive: Drive) -> None:
    tables["scene"].append(
        {
            "token": SCENES[number],
            "name": SCENES[number],
            "description": "",
            "log_token": "log",
            "nbr_samples": len(drive),
            "first_sample_token": sample_token(number, 0),
            "last_sample_token": sample_token(number, len(drive) - 1),
        }
    )
    tracks: dict[str, list[Row]] = {}
    for index, sample in enumerate(drive):
        _add_sample(tables, number, index, len(drive), sample)
        for annotation in sample.annotations:
            tracks.setdefault(f"{number}-{annotation.instance}", []).append(_annotation_row(number, index, annotation))
    for instance, rows in tracks.items():
        for before, after in pairwise(rows):
            before["next"], after["prev"] = after["token"], before["token"]
        category = rows[0].pop("category")
        for row in rows[1:]:
            row.pop("category")
        tables["instance"].append(
            {
                "token": instance,
                "category_token": category,
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )
        tables["sample_annotation"] += rows


def _add_sample(tables: dict[str, list[Row]], number: int, index: int, count: int, sample: Sample) -> None:
    token = sample_token(number, index)
    links = {
        "prev": sample_token(number, index - 1) if index else "",
        "next": sample_token(number, index + 1) if index + 1 < count else "",
    }
    timestamp = timestamp_us(number, index)
    tables["sample"].append({"token": token, "timestamp": timestamp, "scene_token": SCENES[number], **links})
    tables["ego_pose"].append(
        {
            "token": token,
            "timestamp": timestamp,
            "translation": sample.world_SE3_ego[:3, 3].tolist(),
            "rotation": Quaternion(matrix=sample.world_SE3_ego).elements.tolist(),
        }
    )
    tables["sample_data"].append(
        {
            "token": token,
            "sample_token": token,
            "ego_pose_token": token,
            "calibrated_sensor_token": "lidar",
            "timestamp": timestamp,
            "fileformat": "bin",
            "is_key_frame": True,
            "height": 0,
            "width": 0,
            "filename": "none.bin",
            **links,
        }
    )


def timestamp_us(number: int, index: int) -> int:
    return 1_600_000_000_000_000 + number * 1_000_000_000 + round(index * PERIOD_S * 1e6)


def _annotation_row(number: int, index: int, annotation: Annotation) -> Row:
    length, width, height = annotation.size_m
    return {
        "token": f"{number}-{annotation.instance}-{index}",
        "category": CATEGORIES.get(annotation.name, annotation.name),
        "sample_token": sample_token(number, index),
        "instance_token": f"{number}-{annotation.instance}",
        "visibility_token": "4",
        "attribute_tokens": [annotation.attribute] if annotation.attribute else [],
        "translation": list(annotation.center_m),
        "size": [width, length, height],
        "rotation": Quaternion(axis=[0, 0, 1], radians=annotation.yaw_rad).elements.tolist(),
        "prev": "",
        "next": "",
        "num_lidar_pts": annotation.num_lidar_points,
        "num_radar_pts": annotation.num_radar_points,
    }


def write_results(path: Path, drives: list[Drive], task: str, names: tuple[str, ...]) -> None:
    """The detections of the classes `names` as a result file of a task, `detection` or `tracking`."""
    results: dict[str, list[Row]] = {}
    for number, drive in enumerate(drives):
        for index, sample in enumerate(drive):
            token = sample_token(number, index)
            chosen = [detected for detected in sample.detections if detected.name in names]
            results[token] = [_result_row(token, sample, detected, task) for detected in chosen]
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    path.write_text(json.dumps({"meta": meta, "results": results}))


def _result_row(token: str, sample: Sample, detected: Detected, task: str) -> Row:
    turn = Quaternion(matrix=sample.world_SE3_ego)
    center, size, velocity = (
        np.array(v, dtype=np.float32).astype(np.float64)
        for v in (detected.center_m, detected.size_m, detected.velocity_mps)
    )
    yaw = float(np.float32(detected.yaw_rad))
    row = {
        "sample_token": token,
        "translation": (sample.world_SE3_ego[:3, :3] @ center + sample.world_SE3_ego[:3, 3]).tolist(),
        "size": size[[1, 0, 2]].tolist(),
        "rotation": (turn * Quaternion(axis=[0, 0, 1], radians=yaw)).elements.tolist(),
        "velocity": (sample.world_SE3_ego[:3, :3] @ np.array([*velocity, 0.0]))[:2].tolist(),
        f"{task}_name": detected.name,
        f"{task}_score": float(np.float32(detected.score)),
    }
    extra = {"attribute_name": detected.attribute} if task == "detection" else {"tracking_id": str(detected.track_id)}
    return row | extra


def official_detection(nusc: NuScenes, drives: list[Drive], folder: Path) -> Row:
    """What the devkit's DetectionEval says: loading, distances, filters, accumulation and summary are all its own."""
    path = folder / "detection.json"
    write_results(path, drives, "detection", tuple(CATEGORIES))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(path), SPLIT, str(folder / "detection"), verbose=False)
    metrics, _ = evaluation.evaluate()
    figures: Row = json.loads(json.dumps(metrics.serialize()))
    return {key: value for key, value in figures.items() if key not in ("eval_time", "cfg")}


def official_tracking(root: Path, drives: list[Drive], folder: Path) -> Row:
    """What the devkit's TrackingEval says, from its own loading and interpolation on."""
    path = folder / "tracking.json"
    config = config_factory("tracking_nips_2019")
    write_results(path, drives, "tracking", tuple(config.tracking_names))
    evaluation = TrackingEval(
        config, str(path), SPLIT, str(folder / "tracking"), VERSION, str(root), verbose=False, render_classes=None
    )
    metrics, _ = evaluation.evaluate()
    figures: Row = json.loads(json.dumps(metrics.serialize()))
    return {key: value for key, value in figures.items() if key not in ("eval_time", "cfg")}


def stored_frames(nusc: NuScenes, drives: list[Drive]) -> list[Row]:
    """All frames as the tests read them: labels in the ego frame, detections as they were written."""
    return [
        {
            "drive": SCENES[number],
            "reference_us": timestamp_us(number, index),
            "world_SE3_ego": sample.world_SE3_ego.tolist(),
            "labels": _label_rows(nusc, sample_token(number, index), sample),
            "detections": [
                [d.name, d.score, d.center_m, d.size_m, d.yaw_rad, _with_nulls(d.velocity_mps), d.attribute, d.track_id]
                for d in sample.detections
            ],
        }
        for number, drive in enumerate(drives)
        for index, sample in enumerate(drive)
    ]


def _label_rows(nusc: NuScenes, token: str, sample: Sample) -> list[list[Any]]:
    ego_R_world = sample.world_SE3_ego[:3, :3].T
    turn = Quaternion(matrix=sample.world_SE3_ego).inverse
    rows = []
    for annotation in (nusc.get("sample_annotation", a) for a in nusc.get("sample", token)["anns"]):
        width, length, height = annotation["size"]
        rows.append(
            [
                annotation["category_name"],
                (ego_R_world @ (np.array(annotation["translation"]) - sample.world_SE3_ego[:3, 3])).tolist(),
                [length, width, height],
                (turn * Quaternion(annotation["rotation"])).elements.tolist(),
                _with_nulls(ego_R_world @ nusc.box_velocity(annotation["token"])),
                annotation["attribute_tokens"][0] if annotation["attribute_tokens"] else "",
                annotation["instance_token"],
                [annotation["num_lidar_pts"], annotation["num_radar_pts"]],
            ]
        )
    return rows


def _with_nulls(velocity_mps: Any) -> list[float | None]:
    """The planar part; JSON has no nan."""
    return [None if np.isnan(v) else float(v) for v in velocity_mps[:2]]
