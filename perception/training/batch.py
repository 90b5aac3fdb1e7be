"""Training frames as batched tensors on the training device."""

from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from perception.models.lenses import CAMERA_FIELDS as CAMERA_FIELDS

RAY_STRIDE: Final = 4
"""Pixels between the view rays of `TrainingBatch.ray_map`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBatch:
    """B frames, padded to N cameras, L lidars, P points, R returns and M objects; present tells padding apart.

    images: (B, N, 3, H, W) uint8, or float after colour augmentation. camera_present: (B, N) bool. cameras:
    (B, N, 17) as `CAMERA_FIELDS`. reference_SE3_camera: (B, N, 4, 4), any invertible affine map once the world was
    mirrored or scaled. image_from_network: (B, N, 2, 3), pixels of the camera model to pixels of `images` (identity
    until an image was zoomed or mirrored). ray_map: (B, N, H / 4, W / 4, 3) unit rays in camera axes through every
    fourth pixel of the camera model, from pixel 1.5. camera_age_s: (B, N).
    lidar_points: (B, L, P, 5); lidar_count: (B, L) int64; lidar_present: (B, L) bool; lidar_age_s: (B, L).
    radar_points: (B, R, 7); radar_count: (B,) int64; radar_present: (B,) bool; radar_age_s: (B,). ego: (B, E).
    class_index: (B, M) int64, -1 for padding. boxes: (B, M, 10), velocity nan where not known. attribute_index: (B, M).
    path_m: (B, S, 2); path_known: (B, S) bool; target_speed_mps: (B,), nan where not known.
    drivable: (B, G, G) float 0..1; drivable_known: (B, G, G) bool (a rotated world leaves corners unknown).
    """

    images: Tensor
    camera_present: Tensor
    cameras: Tensor
    reference_SE3_camera: Tensor
    image_from_network: Tensor
    ray_map: Tensor
    camera_age_s: Tensor
    lidar_points: Tensor
    lidar_count: Tensor
    lidar_present: Tensor
    lidar_age_s: Tensor
    radar_points: Tensor
    radar_count: Tensor
    radar_present: Tensor
    radar_age_s: Tensor
    ego: Tensor
    class_index: Tensor
    boxes: Tensor
    attribute_index: Tensor
    path_m: Tensor
    path_known: Tensor
    target_speed_mps: Tensor
    drivable: Tensor
    drivable_known: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TrainingBatch":
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return replace(self, **moved)

    def part(self, frames: slice) -> "TrainingBatch":
        """The batch of some of the frames; nothing is copied."""
        return replace(self, **{f.name: getattr(self, f.name)[frames] for f in fields(self)})
