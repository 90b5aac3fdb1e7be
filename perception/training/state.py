"""Everything a run needs to go on after a kill: one safetensors file a state, the last two kept. No pickles."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from perception.config.schema import ModelConfig
from perception.config.training import TrainingConfig
from perception.core.errors import ModelError, UsageError
from perception.models.network import PerceptionNetwork
from perception.training.average import Average
from perception.training.optimiser import Optimiser

FORMAT: Final = "perception-training-state-1"
KEPT: Final = 2

FREE_FIELDS: Final = frozenset(
    {"steps", "patience", "checkpoint_every", "validate_every", "device", "threads", "processes", "data", "model"}
)
"""Settings that a resumed run may have changed. Data and model are compared by what came of them."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is. step: optimiser steps done. seconds: time spent in steps. skipped: steps that were not finite.
    stale_validations: those since the best one. is_over: early stopping ended the run."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_nds: float | None = None
    best_step: int | None = None
    stale_validations: int = 0
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What must be the same when a run goes on. settings: name by dotted path, as JSON values."""

    settings: Mapping[str, Any]
    train_hash: str
    validation_hash: str

    @classmethod
    def of(cls, config: TrainingConfig, model: ModelConfig, train_hash: str, validation_hash: str) -> "Identity":
        kept = config.model_dump(mode="json", exclude=set(FREE_FIELDS | {"model_settings"}))
        shapes = {"data": {"max_boxes": config.data.max_boxes}, "model": model.model_dump(mode="json")}
        return cls(
            settings=_flat(kept | shapes),
            train_hash=train_hash,
            validation_hash=validation_hash,
        )

    def differences(self, other: "Identity") -> list[str]:
        """What `other` has otherwise, one line each."""
        names = sorted(set(self.settings) | set(other.settings))
        lines = [
            f"{name} was {self.settings.get(name)}, is {other.settings.get(name)}"
            for name in names
            if self.settings.get(name) != other.settings.get(name)
        ]
        if self.train_hash != other.train_hash:
            lines.append(f"the frames to train on were {self.train_hash}, are {other.train_hash}")
        if self.validation_hash != other.validation_hash:
            lines.append(f"the frames to validate with were {self.validation_hash}, are {other.validation_hash}")
        return lines


def save_state(
    folder: Path,
    network: nn.Module,
    average: Average[PerceptionNetwork],
    optimiser: Optimiser,
    progress: Progress,
    identity: Identity,
) -> Path:
    """Write the state of `progress.step`; whatever happens meanwhile, the folder holds a whole state afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.network.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in _optimiser_tensors(optimiser).items()}
    header = {"format": FORMAT, "progress": json.dumps(asdict(progress)), "identity": json.dumps(asdict(identity))}
    path = folder / f"state-{progress.step:08d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata=header)
    _sync(partial)
    partial.replace(path)
    _sync(folder)
    for old in list_states(folder)[:-KEPT]:
        old.unlink()
    return path


def list_states(folder: Path) -> list[Path]:
    """States in a folder, oldest first."""
    return sorted(folder.glob("state-*.safetensors"))


def last_progress(folder: Path) -> Progress:
    """How far the run in a folder is; not begun where there is no state. Raises ModelError for a damaged one."""
    states = list_states(folder)
    return _read(states[-1])[0] if states else Progress()


def load_state(
    path: Path, network: nn.Module, average: Average[PerceptionNetwork], optimiser: Optimiser, identity: Identity
) -> Progress:
    """Put a state back into freshly built parts.

    Raises UsageError, naming each difference, where the run had other settings or data; ModelError where the file is
    damaged.
    """
    progress, stored, tensors = _read(path)
    if lines := stored.differences(identity):
        raise UsageError(
            f"{path} is of another run: {'; '.join(lines)}. Put that back, choose another name, or start anew with "
            "--fresh"
        )
    network.load_state_dict(_below("network", tensors))
    average.network.load_state_dict(_below("average", tensors))
    _restore_optimiser(optimiser, _below("optimiser", tensors))
    return progress


def _optimiser_tensors(optimiser: Optimiser) -> dict[str, Tensor]:
    """Moments and counts, named `parameter.what`; parameters are numbered as in the optimiser's groups."""
    state = optimiser.inner.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, values in state.items() for name, tensor in values.items()}


def _restore_optimiser(optimiser: Optimiser, tensors: Mapping[str, Tensor]) -> None:
    whole = optimiser.inner.state_dict()
    whole["state"] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        whole["state"].setdefault(int(index), {})[name] = tensor
    optimiser.inner.load_state_dict(whole)


def _read(path: Path) -> tuple[Progress, Identity, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ModelError(f"{path}: has no {FORMAT} header; start anew with --fresh")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return Progress(**json.loads(header["progress"])), Identity(**json.loads(header["identity"])), tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable state ({error}); delete it to go on from the one before") from None


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
