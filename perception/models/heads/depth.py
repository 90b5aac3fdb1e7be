"""Depth head: for each image token a distribution over how far away the thing is that it shows.

The camera lift weighs by it, and lidar points teach it (in the spirit of Philion and Fidler, Lift, Splat, Shoot, ECCV
2020, and Li et al., BEVDepth, AAAI 2023). Depth is measured along the ray, so that a fisheye has one everywhere.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.config.schema import ModelConfig
from perception.models.blocks import start_small
from perception.models.encoders.camera import STRIDE
from perception.models.tensors import ORIGIN_SCALE_M, FusionInputs

DEPTH_BINS: Final = 24
DEPTH_RANGE_M: Final = (1.0, 80.0)
"""Depths of the first and the last bin; between them bins are evenly spaced in the logarithm of depth."""

HIDDEN = 64


class DepthHead(nn.Module):
    """Image tokens (B, N, T, C) to depth logits (B, N, T, bins).

    It knows each token's ray and where the camera stands, from which the depth of the ground follows, and how wide
    the token is, without which an object's size on the image says nothing of its distance.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rows, self.columns = config.image.height_px // STRIDE, config.image.width_px // STRIDE
        self.content = nn.Linear(config.width, HIDDEN)
        self.place = nn.Linear(7, HIDDEN, bias=False)
        self.depth = nn.Linear(HIDDEN, DEPTH_BINS)

    def reset(self) -> None:
        """Start with all bins about equally likely: then the lift weighs all samples alike."""
        start_small(self.depth, std=0.01)

    def forward(self, inputs: FusionInputs, tokens: Tensor) -> Tensor:
        batch, cameras = tokens.shape[:2]
        is_there = inputs.camera_present[:, :, None, None]  # (B, N, 1, 1)
        rays = inputs.camera_rays.masked_fill(~is_there, 0.0)  # (B, N, T, 3)
        origin = inputs.camera_origin_m[:, :, None].masked_fill(~is_there, 0.0) / ORIGIN_SCALE_M  # (B, N, 1, 3)
        grid = rays.view(batch, cameras, self.rows, self.columns, 3)
        step = (grid[..., 1:, :] - grid[..., :-1, :]).norm(dim=-1).mean(dim=(2, 3))  # (B, N) radians a token
        width = (step * self.columns).clamp(min=0.1).log()[..., None, None]  # (B, N, 1, 1)
        known = torch.cat([rays, origin.expand_as(rays), width.expand_as(rays[..., :1])], dim=-1)  # (B, N, T, 7)
        hidden = functional.relu(self.content(tokens) + self.place(known), inplace=True)  # (B, N, T, 64)
        logits: Tensor = self.depth(hidden)
        return logits


def depth_place(depth_m: Tensor) -> tuple[Tensor, Tensor]:
    """Where depths (...) lie among the bins: the nearer bin (...) int64, and the share (...) of the next one, 0..1."""
    near, far = DEPTH_RANGE_M
    per_bin = (DEPTH_BINS - 1) / math.log(far / near)
    place = (depth_m.clamp(near, far) / near).log() * per_bin  # (...) 0..bins - 1
    lower = place.floor().clamp(max=DEPTH_BINS - 2)
    return lower.long(), place - lower
