"""The golden files as frames to evaluate, and the devkit's figures beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.labels import Labels
from perception.core.results import Detections
from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS
from perception.evaluation.frames import EvaluatedFrame
from perception.sources.nuscenes_labels import DETECTION_CLASSES

GOLDEN = Path(__file__).resolve().parent.parent


def load_golden(name: str) -> tuple[list[EvaluatedFrame], dict[str, Any]]:
    """Frames and figures of a set such as `detection/noisy`."""
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    frames = [
        frame_of_rows(
            stored["labels"],
            stored["detections"],
            drive_id=stored["drive"],
            reference_ns=stored["reference_us"] * 1000,
            world_SE3_ego=np.array(stored["world_SE3_ego"]),
        )
        for stored in content["frames"]
    ]
    return frames, content["figures"]


def label_row(category: str, x: float, y: float, track_id: str = "", **changes: Any) -> list[Any]:
    """A label as the files have it: a box of 4 x 2 x 2 m that stands and was seen, but for `changes`."""
    row: dict[str, Any] = {"center_m": [x, y, 1.0], "size_m": [4.0, 2.0, 2.0], "quaternion_wxyz": [1.0, 0.0, 0.0, 0.0]}
    row |= {"velocity_mps": [0.0, 0.0], "attribute": "", "track_id": track_id or f"{category}-{x}-{y}", "num": [5, 0]}
    return [category, *(row | changes).values()]


def detection_row(name: str, score: float, x: float, y: float, track_id: int = -1, **changes: Any) -> list[Any]:
    """A detection as the files have it: a box of 4 x 2 x 2 m that stands, but for `changes`."""
    row: dict[str, Any] = {
        "center_m": [x, y, 1.0],
        "size_m": [4.0, 2.0, 2.0],
        "yaw_rad": 0.0,
        "velocity_mps": [0.0, 0.0],
    }
    return [name, score, *(row | {"attribute": "", "track_id": track_id} | changes).values()]


def frame_of_rows(
    labels: list[list[Any]],
    detections: list[list[Any]],
    *,
    drive_id: str = "drive",
    reference_ns: int = 0,
    world_SE3_ego: NDArray[np.float64] | None = None,
) -> EvaluatedFrame:
    """A frame of rows as the files have them."""
    return EvaluatedFrame(
        drive_id=drive_id,
        reference_ns=reference_ns,
        detections=_detections(detections),
        labels=_labels(labels, reference_ns),
        world_SE3_ego=world_SE3_ego,
    )


def _detections(rows: list[list[Any]]) -> Detections:
    if not rows:
        return Detections.empty()
    name, score, center, size, yaw, velocity, attribute, track = zip(*rows, strict=True)
    return Detections(
        class_index=np.array([CLASS_INDEX[n] for n in name], dtype=np.int64),
        score=np.array(score, dtype=np.float32),
        center_m=np.array(center, dtype=np.float32),
        size_m=np.array(size, dtype=np.float32),
        yaw_rad=np.array(yaw, dtype=np.float32),
        velocity_mps=np.array(velocity, dtype=np.float32),
        attribute_index=_attributes(attribute),
        track_id=np.array(track, dtype=np.int64),
    )


def _labels(rows: list[list[Any]], reference_ns: int) -> Labels:
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * 8
    category, center, size, quaternion, velocity, attribute, track, points = columns
    return Labels(
        reference_ns=reference_ns,
        category=tuple(category),
        class_index=np.array(
            [CLASS_INDEX.get(DETECTION_CLASSES.get(n, ""), NO_CLASS) for n in category], dtype=np.int64
        ),
        center_m=np.array(center, dtype=np.float64).reshape(-1, 3),
        size_m=np.array(size, dtype=np.float64).reshape(-1, 3),
        quaternion_wxyz=np.array(quaternion, dtype=np.float64).reshape(-1, 4),
        velocity_mps=np.array(velocity, dtype=np.float64).reshape(-1, 2),
        attribute_index=_attributes(attribute),
        track_id=tuple(track),
        num_lidar_points=np.array(points, dtype=np.int64).reshape(-1, 2)[:, 0],
        num_radar_points=np.array(points, dtype=np.int64).reshape(-1, 2)[:, 1],
    )


def _class_of(category: str) -> int:
    return CLASS_INDEX.get(DETECTION_CLASSES.get(category, ""), NO_CLASS)


def _attributes(names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([ATTRIBUTE_INDEX.get(name, NO_ATTRIBUTE) for name in names], dtype=np.int64)
