"""What a backend is: the network's four stages, as tensors in and tensors out, however it computes them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from perception.models.tensors import FusionInputs, FusionTensors


class Backend(Protocol):
    """Runs one network. Encoders stay apart, so that each sensor is encoded when it arrives.

    name: as in the setting `model.backend`. device: where features are, and where inputs are wanted (others are moved).
    precision: `float32`, `bfloat16` or `float16`, of the convolutions and matrix products.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> str: ...

    def lane(self, sensor: str) -> AbstractContextManager[None]:
        """Do what is inside in the order of this sensor alone: a CUDA stream of its own on a GPU. A lane inside a lane
        changes nothing."""

    def wait_for(self, features: Sequence[Tensor]) -> None:
        """Let the current lane wait for all others, whose `features` it will read. The host does not wait."""

    def encode_cameras(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) uint8 RGB: features (B, T, C) float32 on `device`."""

    def encode_lidar(self, points: Tensor, count: Tensor) -> Tensor:
        """points (B, P, 5), count (B,): features (B, G * G, C) float32 on `device`."""

    def encode_radar(self, points: Tensor, count: Tensor) -> Tensor:
        """points (B, P, 7), count (B,): features (B, G * G, C) float32 on `device`."""

    def fuse(self, inputs: FusionInputs) -> FusionTensors:
        """What the heads say of B bundles, on the CPU in float32: the one place where a frame is waited for.

        Of the decoder's layers the last alone; `curve_logits` (B, 0) and `depth_logits` (B, 0, 0, 0), as nobody
        asks for them here.
        """
