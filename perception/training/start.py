"""What a run starts from: its first weights, its device, its frames."""

from collections.abc import Sequence
from pathlib import Path

import torch

from perception.config.training import TrainingConfig
from perception.core.errors import ConfigError
from perception.models.checkpoint import SUFFIX, load_checkpoint, read_config, with_choices
from perception.models.network import PerceptionNetwork, build_network
from perception.models.presets import preset


def first_network(config: TrainingConfig) -> PerceptionNetwork:
    """A preset's network with seeded weights, or a checkpoint's; `model_settings` change fields of either.

    Raises ModelError where there is no such preset or checkpoint, or the settings do not fit it.
    """
    if config.model.endswith(SUFFIX):
        path = Path(config.model)
        return load_checkpoint(path, with_choices(read_config(path), config.model_settings))[0]
    return build_network(with_choices(preset(config.model), config.model_settings))


def keep_all_but(network: PerceptionNetwork, trained: Sequence[str]) -> None:
    """Let only the named parts of a network learn; the others stay as they are, batch statistics included.

    trained: names of its parts (`path_head`, `camera_encoder`, ...); empty: all learn. Raises ConfigError for a name
    that is none.
    """
    parts = dict(network.named_children())
    if unknown := [name for name in trained if name not in parts]:
        raise ConfigError(f"train_only: the network has no {', '.join(unknown)}; its parts are {', '.join(parts)}")
    for name, part in parts.items():
        if trained and name not in trained:
            part.eval().requires_grad_(False)


def training_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` is the GPU where there is one. Raises ConfigError for none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is none; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch sees no GPU here; use auto or cpu")
    return device
