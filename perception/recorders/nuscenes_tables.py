"""The thirteen tables of a nuScenes root, built from what was recorded.

Schema: github.com/nutonomy/nuscenes-devkit, docs/schema_nuscenes.md.
"""

from datetime import UTC, datetime
from typing import Final

import numpy as np

from perception.core.geometry import quaternion_to_rotation, rotation_to_quaternion
from perception.core.labels import Labels
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.recorders.nuscenes_drive import Keyframes, RecordedDrive

JsonRow = dict[str, object]
Tables = dict[str, list[JsonRow]]

CATEGORIES: Final[tuple[str, ...]] = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
# Where another format's name must become one of nuScenes, the plainest of its class.
_CATEGORY_OF_CLASS: Final[dict[str, str]] = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
_VISIBILITY: Final = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))
_VISIBLE_FROM: Final = (0.4, 0.6, 0.8)
"""Shares at which the second, third and fourth level begin."""


def build_tables(drive: RecordedDrive, keyframes: Keyframes, *, is_final: bool) -> Tables:
    """All tables up to the last keyframe (`is_final`: to the end of the drive). Needs one keyframe at least."""
    samples = [drive.token("sample", time) for time in keyframes.times_us.tolist()]
    tables: Tables = {
        **_fixed_tables(drive),
        "sample": _linked(
            [
                {"token": token, "timestamp": time, "scene_token": drive.token("scene")}
                for token, time in zip(samples, keyframes.times_us.tolist(), strict=True)
            ]
        ),
        "scene": [
            {
                "token": drive.token("scene"),
                "log_token": drive.token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": drive.name,
                "description": f"recorded from {drive.drive_id}",
            }
        ],
    }
    tables.update(_sensor_data(drive, keyframes, samples, is_final=is_final))
    tables.update(_annotations(drive, keyframes, samples))
    return tables


def map_token(drive: RecordedDrive) -> str:
    return drive.token("map")


def _fixed_tables(drive: RecordedDrive) -> Tables:
    first_us = min(min(files) for files in drive.files.values() if files)
    return {
        "log": [
            {
                "token": drive.token("log"),
                "logfile": drive.name,
                "vehicle": "",
                "date_captured": datetime.fromtimestamp(first_us / 1e6, tz=UTC).date().isoformat(),
                "location": "unknown",
            }
        ],
        "map": [
            {
                "token": map_token(drive),
                "log_tokens": [drive.token("log")],
                "category": "semantic_prior",
                "filename": f"maps/{map_token(drive)}.png",
            }
        ],
        "sensor": [
            {"token": drive.token("sensor", s.name), "channel": s.name, "modality": str(s.modality)}
            for s in drive.rig.sensors
        ],
        "calibrated_sensor": [
            {
                "token": drive.token("calibrated_sensor", s.name),
                "sensor_token": drive.token("sensor", s.name),
                "translation": s.ego_SE3_sensor[:3, 3].tolist(),
                "rotation": rotation_to_quaternion(s.ego_SE3_sensor[:3, :3]).tolist(),
                "camera_intrinsic": [] if s.camera is None else s.camera.intrinsic.tolist(),
            }
            for s in drive.rig.sensors
        ],
        "attribute": [
            {"token": drive.token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES
        ],
        "visibility": [{"token": token, "level": level, "description": ""} for token, level in _VISIBILITY],
    }


def _linked(rows: list[JsonRow]) -> list[JsonRow]:
    """The same rows, each with the tokens of its neighbours."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""
    return rows


def _sensor_data(drive: RecordedDrive, keyframes: Keyframes, samples: list[str], *, is_final: bool) -> Tables:
    """`sample_data` and `ego_pose`. What lies between keyframes belongs to the next one, as in nuScenes."""
    data: list[JsonRow] = []
    poses: list[JsonRow] = []
    for sensor in drive.rig.sensors:
        key_of = {capture: i for i, capture in keyframes.members.get(sensor.name, {}).items()}
        rows: list[JsonRow] = []
        for capture, file in sorted(drive.files.get(sensor.name, {}).items()):
            following = int(np.searchsorted(keyframes.times_us, capture))
            if capture not in key_of and following == len(samples) and not is_final:
                continue
            rotation, translation = drive.pose_of(file)
            poses.append({"token": file.token, "timestamp": capture, "rotation": rotation, "translation": translation})
            camera = sensor.camera
            rows.append(
                {
                    "token": file.token,
                    "sample_token": samples[key_of.get(capture, min(following, len(samples) - 1))],
                    "ego_pose_token": file.token,
                    "calibrated_sensor_token": drive.token("calibrated_sensor", sensor.name),
                    "timestamp": capture,
                    "fileformat": file.fileformat,
                    "is_key_frame": capture in key_of,
                    "height": 0 if camera is None else camera.height_px,
                    "width": 0 if camera is None else camera.width_px,
                    "filename": file.filename,
                }
            )
        data += _linked(rows)
    return {"sample_data": data, "ego_pose": poses}


def _annotations(drive: RecordedDrive, keyframes: Keyframes, samples: list[str]) -> Tables:
    """`sample_annotation`, `instance` and `category`; one instance for each track id."""
    rows_of: dict[str, list[JsonRow]] = {}
    category_of: dict[str, str] = {}
    annotations: list[JsonRow] = []
    for token, time in zip(samples, keyframes.times_us.tolist(), strict=True):
        labels = drive.labels.get(time)
        if labels is None:
            continue
        for track, category, row in _boxes(drive, labels, token, time):
            rows_of.setdefault(track, []).append(row)
            category_of.setdefault(track, category)
            annotations.append(row)
    return {
        "sample_annotation": annotations,
        "instance": [
            {
                "token": instance_token(drive, track),
                "category_token": drive.token("category", category_of[track]),
                "nbr_annotations": len(rows),
                "first_annotation_token": _linked(rows)[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
            for track, rows in rows_of.items()
        ],
        "category": [{"token": drive.token("category", name), "name": name, "description": ""} for name in CATEGORIES],
    }


def instance_token(drive: RecordedDrive, track_id: str) -> str:
    """A track id that is a token already (the drive was nuScenes) stays."""
    is_token = len(track_id) == 32 and all(letter in "0123456789abcdef" for letter in track_id)
    return track_id if is_token else drive.token("instance", track_id)


def _boxes(drive: RecordedDrive, labels: Labels, sample_token: str, time_us: int) -> list[tuple[str, str, JsonRow]]:
    """Track id, category and annotation row of each label that nuScenes has a category for, in the global frame."""
    world_SE3_ego = drive.track.at(time_us * 1000)
    centers = labels.center_m @ world_SE3_ego[:3, :3].T + world_SE3_ego[:3, 3]
    rotations = world_SE3_ego[:3, :3] @ quaternion_to_rotation(labels.quaternion_wxyz.reshape(-1, 4))
    visibility = _visibility_tokens(labels)
    boxes = []
    for i, track in enumerate(labels.track_id):
        category = _category(labels.category[i], int(labels.class_index[i]))
        if category is None:
            continue
        attribute = int(labels.attribute_index[i])
        row: JsonRow = {
            "token": drive.token("sample_annotation", track, time_us),
            "sample_token": sample_token,
            "instance_token": instance_token(drive, track),
            "visibility_token": visibility[i],
            "attribute_tokens": [drive.token("attribute", ATTRIBUTES[attribute])] if attribute >= 0 else [],
            "translation": centers[i].tolist(),
            "size": labels.size_m[i, [1, 0, 2]].tolist(),
            "rotation": rotation_to_quaternion(rotations[i]).tolist(),
            "num_lidar_pts": int(labels.num_lidar_points[i]),
            "num_radar_pts": int(labels.num_radar_points[i]),
        }
        boxes.append((track, category, row))
    return boxes


def _visibility_tokens(labels: Labels) -> list[str]:
    """The level of each label; the highest where it is not known, so that nothing is filtered out for want of it."""
    if labels.visible_share is None:
        return [_VISIBILITY[-1][0]] * len(labels)
    return [_VISIBILITY[level][0] for level in np.searchsorted(_VISIBLE_FROM, labels.visible_share, side="right")]


def _category(name: str, class_index: int) -> str | None:
    """A name that nuScenes knows, or the plainest one of the class; None for what is neither."""
    if name in CATEGORIES:
        return name
    return _CATEGORY_OF_CLASS[CLASSES[class_index]] if class_index >= 0 else None
