"""Writes a KITTI object split of a few frames, each with its own calibration and image size."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

SIZES_PX = {0: (64, 48), 1: (64, 48), 2: (80, 50)}
FOCAL_PX = {0: 40.0, 1: 40.0, 2: 45.0}
BASELINE_M = 0.06
POINTS = np.array([[10.0, 1.0, -0.5, 0.3], [5.0, -1.0, 0.0, 1.0]], dtype="<f4")
CAR_AHEAD = "Car 0.00 0 -1.57 1 2 3 4 1.50 1.80 4.00 -1.00 1.65 10.00 -1.5708"
SITTING = "Person_sitting 0 0 0 1 2 3 4 1.2 0.6 0.8 2 1.6 8 0"
DONT_CARE = "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10"
LABELS = f"{CAR_AHEAD}\n{SITTING}\n{DONT_CARE}\n"


def write_split(root: Path, split: str = "training") -> Path:
    folder = root / split
    for part in ("calib", "image_2", "velodyne", "label_2"):
        (folder / part).mkdir(parents=True)
    for frame in SIZES_PX:
        write_calibration(folder, frame)
        width, height = SIZES_PX[frame]
        image = np.random.default_rng(frame).integers(0, 255, (height, width, 3), dtype=np.uint8)
        (folder / f"image_2/{frame:06d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        (folder / f"velodyne/{frame:06d}.bin").write_bytes(POINTS.tobytes())
        (folder / f"label_2/{frame:06d}.txt").write_text(LABELS)
    return folder


def write_calibration(folder: Path, frame: int, *, leave_out: str = "", pitch_rad: float = 0.0) -> None:
    """Velodyne axes to camera axes by a plain swap, the camera 0.3 m ahead; `pitch_rad` tilts it."""
    f = FOCAL_PX[frame]
    cos, sin = np.cos(pitch_rad), np.sin(pitch_rad)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    matrices: dict[str, ArrayLike] = {
        "P2": [f, 0, 30, f * BASELINE_M, 0, f, 20, 0, 0, 0, 1, 0],
        "R0_rect": np.eye(3).ravel(),
        "Tr_velo_to_cam": np.column_stack([turn, turn @ [-0.3, 0, 0]]).ravel(),
    }
    lines = [
        f"{name}: {' '.join(f'{v:.12e}' for v in np.ravel(values))}"
        for name, values in matrices.items()
        if name != leave_out
    ]
    (folder / f"calib/{frame:06d}.txt").write_text("\n".join(lines) + "\n")
