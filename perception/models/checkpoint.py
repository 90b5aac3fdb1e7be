"""Weights on disk: a safetensors file whose header holds the configuration. Nothing in it is ever executed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perception.config.schema import BackendChoice, ModelConfig
from perception.core.errors import ModelError
from perception.models.backends.open import open_backend
from perception.models.backends.torch_backend import TorchBackend
from perception.models.device_front import DeviceFront
from perception.models.inference import InferenceModel, model_hash
from perception.models.network import PerceptionNetwork, build_network
from perception.models.presets import PRESETS, preset

FORMAT: Final = "perception-checkpoint-1"
SUFFIX: Final = ".safetensors"

FREE_FIELDS: Final = frozenset({"name", "max_detections", "score_threshold", "seed"})
"""Settings that do not shape the weights: a checkpoint may be used with others than it was trained with."""

TRAINED: Final = "trained"
"""Metadata of a checkpoint: `no` where its weights are only what a training starts from."""

_PICKLE_STARTS = (b"\x80", b"PK\x03\x04", b"\x1f\x8b")


def save_checkpoint(
    path: Path,
    network: PerceptionNetwork,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the weights and the configuration; `metadata` (steps, data, scores) travels along as it is.

    dtype: of the weights in the file; half the bytes as float16, and float32 again once they are loaded.
    """
    header = {
        "format": FORMAT,
        "config": network.config.model_dump_json(),
        "metadata": json.dumps(dict(metadata or {})),
    }
    weights = {
        name: (tensor.detach().to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_file(weights, path, metadata=header)


def load_checkpoint(path: Path, config: ModelConfig | None = None) -> tuple[PerceptionNetwork, dict[str, str]]:
    """The network in eval mode and the metadata it was saved with.

    config: the configuration wanted; None takes that of the file. Raises ModelError where the file is missing, is a
    pickle, is damaged, or was made for another configuration.
    """
    with _opened(path) as file:
        stored, metadata = _read_header(path, file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    wanted = stored if config is None else config
    _require_fit(path, stored, wanted)
    network = build_network(wanted)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(f"{path}: the weights do not fit its own configuration; {error}") from None
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelError(f"{path}: weights are not finite in {', '.join(broken)}; use an earlier checkpoint")
    return network.eval(), metadata


def load_model(
    name_or_path: str = "tiny", config: ModelConfig | None = None, choice: BackendChoice | None = None
) -> InferenceModel:
    """A model by the name of a preset or the path of a checkpoint.

    A name takes the weights that come with the package; without any the network is seeded and `trained` is False.
    config: settings that somebody chose; those it states expressly replace the preset's or the file's, the rest does
    not count. choice: what runs it; None: torch on the CPU in float32. Raises ModelError where there is no such model,
    its weights do not fit the settings, or the choice cannot be had here (ConfigError for a device that is none).
    """
    network, trained = load_network(name_or_path, config)
    return InferenceModel(network, trained=trained) if choice is None else _running(network, trained, choice)


def load_network(name_or_path: str, config: ModelConfig | None = None) -> tuple[PerceptionNetwork, bool]:
    """The network of `load_model` in eval mode, and whether it is trained."""
    path = Path(name_or_path)
    if name_or_path.endswith(SUFFIX) or (name_or_path not in PRESETS and path.exists()):
        network, metadata = load_checkpoint(path, with_choices(read_config(path), config))
        return network, metadata.get(TRAINED) != "no"
    wanted = with_choices(preset(name_or_path), config)
    packaged = resources.files("perception.models") / "weights" / f"{name_or_path}{SUFFIX}"
    if not packaged.is_file():
        return build_network(wanted).eval(), False
    with resources.as_file(packaged) as file:
        network, _ = load_checkpoint(file, wanted)
    return network, True


def _running(network: PerceptionNetwork, trained: bool, choice: BackendChoice) -> InferenceModel:
    backend = open_backend(network, choice, model_hash(network))
    front = None
    if isinstance(backend, TorchBackend) and backend.device.type == "cuda":
        front = DeviceFront(network.config, backend)
    return InferenceModel(network, trained=trained, backend=backend, front=front)


def read_config(path: Path) -> ModelConfig:
    """The configuration in the header of a checkpoint. Raises ModelError as `load_checkpoint` does."""
    with _opened(path) as file:
        return _read_header(path, file.metadata())[0]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from None


def with_choices(base: ModelConfig, chosen: ModelConfig | None) -> ModelConfig:
    """`base` with the fields that were set in `chosen`, at any depth; a default that nobody wrote changes nothing."""
    if chosen is None:
        return base
    settings = _merged(base.model_dump(), chosen.model_dump(exclude_unset=True, exclude={"name"}))
    try:
        return ModelConfig.model_validate(settings)
    except ValidationError as error:
        raise ModelError(f"model {base.name}: the chosen settings do not go together ({error})") from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {
        name: _merged(base[name], value) if isinstance(value, dict) else value for name, value in changes.items()
    }


def _refuse_pickle(path: Path) -> None:
    """Raises ModelError for what is no safetensors file but looks like a pickle.

    A safetensors file begins with the length of its header in 8 bytes, which may be any, and then the header's brace.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
        raise ModelError(
            f"{path}: looks like a pickle, which could run code; `perception weights` converts those of a backbone"
        )


def _read_header(path: Path, header: Mapping[str, str] | None) -> tuple[ModelConfig, dict[str, str]]:
    if header is None or header.get("format") != FORMAT:
        raise ModelError(f"{path}: has no {FORMAT} header; only checkpoints that this package saved can be loaded")
    try:
        metadata = json.loads(header["metadata"])
        return ModelConfig.model_validate_json(header["config"]), {str(k): str(v) for k, v in metadata.items()}
    except (KeyError, ValidationError, json.JSONDecodeError, AttributeError) as error:
        raise ModelError(f"{path}: its header is damaged or of another version ({error})") from None


def _require_fit(path: Path, stored: ModelConfig, wanted: ModelConfig) -> None:
    have, want = stored.model_dump(exclude=set(FREE_FIELDS)), wanted.model_dump(exclude=set(FREE_FIELDS))
    differing = [f"{name} is {have[name]}, wanted {want[name]}" for name in have if have[name] != want[name]]
    if differing:
        raise ModelError(f"{path}: made for another configuration: {'; '.join(differing)}")
