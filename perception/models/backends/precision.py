"""Half precision where it does no harm: convolutions and matrix products, but not coordinates, scores and sums."""

from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import nn

from perception.core.errors import ModelError

PRECISIONS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

EXACT: Final = (
    "lidar_encoder.pillars",
    "radar_encoder.pillars",
    "dense_head.heat",
    "dense_head.box",
    "dense_head.drivable",
    "detection_head",
    "path_head.weighed",
    "path_head.progress",
    "path_head.confidence",
    "path_head.speed",
)
"""Parts of the network that switch autocast off for themselves, and whose weights stay in float32: a coordinate of 50 m
in bfloat16 is right to a quarter of a metre."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """`auto` resolved: bfloat16 on a GPU that has it, float16 on an older one, float32 on a CPU.

    Raises ModelError for a name that is none.
    """
    if wanted == "auto":
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if wanted not in PRECISIONS:
        raise ModelError(f"precision {wanted!r} is none; use auto, {', '.join(PRECISIONS)}")
    return wanted


def to_precision(network: nn.Module, precision: str) -> None:
    """Store the weights of convolutions and linear layers as they will be used, but for those that stay exact.

    Autocast would cast them anew in every frame.
    """
    dtype = PRECISIONS[precision]
    if dtype is torch.float32:
        return
    for name, module in network.named_modules():
        is_exact = any(name == part or name.startswith(f"{part}.") for part in EXACT)
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_exact:
            module.to(dtype)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a network of this precision runs. Nothing is cached: weights have their type already."""
    dtype = PRECISIONS[precision]
    is_low = dtype is not torch.float32
    return torch.autocast(device.type, dtype=dtype if is_low else None, enabled=is_low, cache_enabled=False)
