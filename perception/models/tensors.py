"""What goes into fusion and what comes out, as batched tensors. Plain containers: the network is in `network.py`.

B batch, N cameras, L lidars, C width, T tokens of a camera, G cells along a side of the bird's-eye view,
P = G * G * heights points of the lift, K cameras a point, Q queries, D decoder layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from perception.core.messages import Command, Signal

COMMANDS: Final = tuple(Command)
SIGNALS: Final = tuple(Signal)
EGO_FIELDS: Final = (
    "speed_mps",
    "yaw_rate_radps",
    "speed_limit_mps",
    "speed_limit_is_known",
    "route_distance_m",
    "route_distance_is_known",
    "route_target_x_m",
    "route_target_y_m",
    "route_target_is_known",
    *(f"command_{command}" for command in COMMANDS),
    *(f"signal_{signal}" for signal in SIGNALS),
)
"""Columns of `FusionInputs.ego`: numbers in SI units, then flags of 0 or 1."""

ORIGIN_SCALE_M: Final = 5.0
"""Unit in which layers take the position of a camera."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionInputs:
    """Features and geometry of B bundles. A sensor that is absent (or padding) has present False; its values are
    ignored, whatever they are. N and L may be 0.

    camera_features: (B, N, T, C). camera_present: (B, N) bool. camera_rays: (B, N, T, 3) unit rays in the ego
    frame at the reference. camera_origin_m: (B, N, 3). camera_age_s: (B, N).
    lift_camera: (B, P, K) int64 camera of each sample. lift_uv: (B, P, K, 2) where, in tokens (column, row).
    lift_depth_m: (B, P, K) from the camera to the point, along its ray. lift_valid: (B, P, K) bool. Points run over
    cells (row by row), then over heights.
    lidar_features: (B, L, G * G, C). lidar_present: (B, L) bool. lidar_age_s: (B, L).
    radar_features: (B, G * G, C). radar_present: (B,) bool. radar_age_s: (B,).
    ego: (B, E) in the order of `EGO_FIELDS`.
    """

    camera_features: Tensor
    camera_present: Tensor
    camera_rays: Tensor
    camera_origin_m: Tensor
    camera_age_s: Tensor
    lift_camera: Tensor
    lift_uv: Tensor
    lift_depth_m: Tensor
    lift_valid: Tensor
    lidar_features: Tensor
    lidar_present: Tensor
    lidar_age_s: Tensor
    radar_features: Tensor
    radar_present: Tensor
    radar_age_s: Tensor
    ego: Tensor

    def to(self, device: torch.device | str) -> "FusionInputs":
        return FusionInputs(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionTensors:
    """Everything that the heads say, before thresholds.

    heat_logits: (B, classes, G, G). dense_boxes: (B, G * G, 10) as `BOX_FIELDS`. drivable_logits: (B, G, G).
    class_logits: (D, B, Q, classes). boxes: (D, B, Q, 10). attribute_logits: (D, B, Q, attributes). The last layer
    is the answer, the others are for training. query_cell: (B, Q) int64, the cell of each query, learned ones behind
    the last cell; with it ties are broken.
    mode_logits: (B, modes). waypoints_m: (B, modes, steps, 2). target_speed_mps: (B,), may be slightly negative.
    curve_logits: (B, K), which of the curves (`models/heads/curves.py`) the way is like.
    depth_logits: (B, N, T, bins), how far each image token looks (`models/heads/depth.py`).
    """

    heat_logits: Tensor
    dense_boxes: Tensor
    drivable_logits: Tensor
    class_logits: Tensor
    boxes: Tensor
    attribute_logits: Tensor
    query_cell: Tensor
    mode_logits: Tensor
    waypoints_m: Tensor
    target_speed_mps: Tensor
    curve_logits: Tensor
    depth_logits: Tensor


def collate(bundles: Sequence[FusionInputs]) -> FusionInputs:
    """Join bundles into one batch; those with fewer cameras or lidars are padded with absent ones."""
    cameras = max(bundle.camera_present.shape[1] for bundle in bundles)
    lidars = max(bundle.lidar_present.shape[1] for bundle in bundles)
    joined = {}
    for field in fields(FusionInputs):
        parts = [getattr(bundle, field.name) for bundle in bundles]
        if field.name.startswith("camera_"):
            parts = [_pad(part, cameras) for part in parts]
        elif field.name.startswith("lidar_"):
            parts = [_pad(part, lidars) for part in parts]
        joined[field.name] = torch.cat(parts)
    return FusionInputs(**joined)


def _pad(x: Tensor, length: int) -> Tensor:
    """x (B, n, ...) to (B, length, ...) with zeros (False)."""
    missing = length - x.shape[1]
    return functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing)) if missing else x
