"""Somebody's ImageNet weights as the first weights of a network's camera encoder."""

import pickle
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from perception.core.errors import ModelError
from perception.models.encoders.camera import PyramidEncoder
from perception.models.network import PerceptionNetwork

UNUSED: Final = ("fc.weight", "fc.bias")
"""ImageNet's classes, for which there is no place here."""

WRAPPERS: Final = ("state_dict", "model")
"""Keys under which training scripts keep the weights beside other things."""
PREFIX: Final = "module."
"""What `DistributedDataParallel` puts before every name."""


def read_backbone(path: Path) -> dict[str, Tensor]:
    """The weights in a .safetensors file or in a pickle of torch (.pth, .pt), as torchvision names them.

    A pickle is read with `weights_only=True`, which runs none of its code. Raises ModelError where the file cannot be
    read or holds something else than named tensors.
    """
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: holds more than weights, or is damaged ({reason})") from None
    for name in WRAPPERS:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise ModelError(f"{path}: holds no state dict, which is names and tensors")
    return {str(name).removeprefix(PREFIX): tensor for name, tensor in held.items()}


def start_from_backbone(network: PerceptionNetwork, weights: dict[str, Tensor], *, where: str) -> None:
    """Put weights with torchvision's names into the camera encoder's ResNet-50.

    where: what the weights are called in an error. Raises ModelError where the network has no such backbone, and where
    names or shapes are not those of `resnet50`; the network is then as it was.
    """
    encoder = network.camera_encoder
    if not isinstance(encoder, PyramidEncoder):
        raise ModelError(f"model {network.config.name} has no ResNet-50; use base, or set image.backbone to resnet50")
    wanted = encoder.backbone.state_dict()
    given = {name: tensor for name, tensor in weights.items() if name not in UNUSED}
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or foreign:
        raise ModelError(f"{where}: not the weights of a resnet50; {_differences(missing, foreign)}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(f"{where}: {name} is {tuple(tensor.shape)}, but resnet50 has {tuple(wanted[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{where}: {name} is not finite")
    encoder.backbone.load_state_dict(given)


def _differences(missing: list[str], foreign: list[str]) -> str:
    parts = []
    for what, names in (("missing", missing), ("not known", foreign)):
        if names:
            parts.append(f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    return "; ".join(parts)
