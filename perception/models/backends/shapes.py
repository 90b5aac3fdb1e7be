"""Rounding the number of sensors and bundles up, so that a recorded or compiled network meets few shapes."""

from dataclasses import fields
from typing import Final

from torch import Tensor
from torch.nn import functional

from perception.models.tensors import FusionInputs

CAMERAS: Final = (1, 2, 4, 6, 8, 12)
LIDARS: Final = (1, 2, 4, 8)
BUNDLES: Final = (1, 2, 4, 8, 16, 32)


def round_up(count: int, sizes: tuple[int, ...]) -> int:
    """The least of the rising `sizes` that holds `count`; beyond the last one its multiples."""
    for size in sizes:
        if count <= size:
            return size
    return -(-count // sizes[-1]) * sizes[-1]


def bundle_bucket(inputs: FusionInputs) -> tuple[int, int, int]:
    """Bundles, cameras and lidars to pad a batch to."""
    return (
        round_up(len(inputs.ego), BUNDLES),
        round_up(inputs.camera_present.shape[1], CAMERAS),
        round_up(inputs.lidar_present.shape[1], LIDARS),
    )


def padded_inputs(inputs: FusionInputs, bundles: int, cameras: int, lidars: int) -> FusionInputs:
    """The same batch with absent cameras, lidars and bundles behind the others, of which nothing changes."""
    padded = {}
    for field in fields(inputs):
        tensor: Tensor = getattr(inputs, field.name)
        if field.name.startswith("camera_"):
            tensor = _pad(tensor, 1, cameras)
        elif field.name.startswith("lidar_"):
            tensor = _pad(tensor, 1, lidars)
        padded[field.name] = _pad(tensor, 0, bundles)
    return FusionInputs(**padded)


def pad_rows(tensor: Tensor) -> Tensor:
    """Rows (B, ...) to as many as the next size, with zeros (a black image, an empty cloud)."""
    return _pad(tensor, 0, round_up(len(tensor), BUNDLES))


def _pad(x: Tensor, dimension: int, length: int) -> Tensor:
    missing = length - x.shape[dimension]
    if not missing:
        return x
    return functional.pad(x, (0, 0) * (x.ndim - 1 - dimension) + (0, missing))
