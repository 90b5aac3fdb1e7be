"""Which backend runs a model: what is asked for, or the best of what is here."""

from typing import Final, cast

import torch

from perception.config.schema import BackendChoice
from perception.core.errors import ConfigError, ModelError
from perception.models.backends.contract import Backend
from perception.models.backends.foreign import ENCODERS, FOREIGN, export_folder, is_installed
from perception.models.backends.torch_backend import Mode, TorchBackend
from perception.models.network import PerceptionNetwork

CPU: Final = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """The device that a setting names; `auto` is the GPU where there is one. Raises ConfigError for none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"model.device {name!r} is none; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"model.device {name!r} is not known here; use auto, cpu, cuda or cuda:N")
    if device.type != "cuda":
        return CPU
    if not torch.cuda.is_available():
        raise ConfigError(f"model.device {name!r}: torch sees no GPU here; use auto or cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"model.device {name!r}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return torch.device("cuda", index)


def choose_backend(choice: BackendChoice, device: torch.device, model_hash: str) -> str:
    """`auto` resolved: CUDA graphs on a GPU; on a CPU the fastest runtime that is installed and that somebody has
    exported this model's encoders for; else torch."""
    if choice.backend != "auto":
        return choice.backend
    if device.type == "cuda":
        return "graph"
    folder = export_folder(model_hash)
    if choice.precision in ("auto", "float32") and all((folder / f"{name}.onnx").is_file() for name in ENCODERS):
        return next((name for name in FOREIGN if is_installed(name)), "torch")
    return "torch"


def open_backend(network: PerceptionNetwork, choice: BackendChoice, model_hash: str) -> Backend:
    """A backend for `network`, which is copied. model_hash: of the network, for finding what was exported of it.

    Raises ConfigError and ModelError where the device, the precision and the backend do not go together, and where what
    a backend needs is not there.
    """
    device = choose_device(choice.device)
    name = choose_backend(choice, device, model_hash)
    if name not in FOREIGN:
        return TorchBackend(network, device=device, precision=choice.precision, mode=cast(Mode, name))
    if choice.precision not in ("auto", "float32"):
        raise ModelError(f"model.backend {name} computes in float32; leave model.precision at auto")
    if device.type == "cuda" and choice.device != "auto":
        raise ModelError(f"model.backend {name} runs on the CPU; set model.device to cpu or take another")
    if not is_installed(name):
        raise ModelError(f"model.backend {name} is not installed; pip install 'perception[export]'")
    return FOREIGN[name](network, export_folder(model_hash), model_hash)
