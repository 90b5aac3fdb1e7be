"""The numbers that describe a box inside the network, their order, and the way back to metres and radians."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.geometry import wrap_angle

BOX_FIELDS: Final = (
    "x_m",
    "y_m",
    "z_m",
    "log_length",
    "log_width",
    "log_height",
    "sin_yaw",
    "cos_yaw",
    "vx_mps",
    "vy_mps",
)
"""Order of every packed box tensor (..., 10). Boxes are in the ego frame at the reference; logs are of metres."""

CENTER: Final = slice(0, 3)
LOG_SIZE: Final = slice(3, 6)
YAW: Final = slice(6, 8)
VELOCITY: Final = slice(8, 10)

MIN_SIZE_M: Final = 0.05
MAX_SIZE_M: Final = 40.0
VELOCITY_SCALE: Final = 5.0
"""A head's unit of velocity in m/s, so that its raw outputs are all of about the same size."""


def offsets_to_boxes(raw: Tensor, base: Tensor) -> Tensor:
    """What a head says (..., 10) on top of the boxes that it starts from (..., 10)."""
    scale = raw.new_ones(len(BOX_FIELDS))
    scale[VELOCITY] = VELOCITY_SCALE
    return base + raw * scale


def boxes_at(xy_m: Tensor) -> Tensor:
    """Boxes (..., 10) of one cubic metre that stand at `xy_m` (..., 2): what offsets of 0 mean."""
    rest = xy_m.new_zeros((*xy_m.shape[:-1], len(BOX_FIELDS) - 2))
    return torch.cat([xy_m, rest], dim=-1)


def encode_boxes(
    center_m: NDArray[np.float64],
    size_m: NDArray[np.float64],
    yaw_rad: NDArray[np.float64],
    velocity_mps: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Boxes (N, 10) of centres (N, 3), sizes (N, 3) l/w/h, yaws (N,) and velocities (N, 2)."""
    yaw = np.stack([np.sin(yaw_rad), np.cos(yaw_rad)], axis=1)
    size = np.log(np.clip(size_m, MIN_SIZE_M, MAX_SIZE_M))
    return np.concatenate([center_m, size, yaw, velocity_mps], axis=1).astype(np.float32)


def sizes_of(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Length, width, height (N, 3) of boxes (N, 10), within what an object on a road can have."""
    return np.exp(np.clip(boxes[:, LOG_SIZE], np.log(MIN_SIZE_M), np.log(MAX_SIZE_M))).astype(np.float32)


def yaws_of(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Yaws (N,) in [-pi, pi) of boxes (N, 10)."""
    yaw = np.arctan2(boxes[:, 6].astype(np.float64), boxes[:, 7].astype(np.float64))
    return wrap_angle(yaw).astype(np.float32)
