"""A whole training run: frames made ready, trained on in one process or several, and what came of it."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from perception.config.training import TrainingConfig
from perception.core.errors import UsageError
from perception.models.checkpoint import SUFFIX, load_checkpoint, save_checkpoint
from perception.training.dataset import Prepared, prepare
from perception.training.gates import Gate, GateReport, judge_gradients, judge_overfit
from perception.training.log import TrainingDisplay
from perception.training.path_stage import PathScores, train_paths
from perception.training.start import first_network, training_device
from perception.training.state import Identity, Progress, last_progress
from perception.training.trainer import BEST, LAST, Ending, Trainer, ending_of, read_stages

GRADIENT_FRAMES = 2
PATHS = "paths.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAccount:
    """What a call of `run_training` did.

    checkpoint: the best weights so far; the last ones where nothing was validated. prepare_s: time to make the frames
    ready. stages: by stage of a step, what this call spent in it (`StageTimes.table`). bad_data: counted by rule.
    """

    folder: Path
    ending: Ending
    progress: Progress
    steps: int
    checkpoint: Path
    train_frames: int
    validation_frames: int
    prepare_s: float
    stages: dict[str, dict[str, float]]
    bad_data: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder), "checkpoint": str(self.checkpoint)}


def run_training(
    config: TrainingConfig,
    folder: Path,
    display: TrainingDisplay,
    *,
    until_s: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = True,
    exact_times: bool = False,
) -> RunAccount:
    """Train as `config` says, or go on from where the run in `folder` stopped.

    until_s: save and stop after so long, the time to make frames ready included. resume: False throws away what
    `folder` holds. exact_times: see `Trainer`. Raises what `prepare` and `Trainer` raise.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    network = first_network(config)
    device = training_device(config.device)
    prepared = prepare(config, network.config, progress=display.note, should_stop=should_stop)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    identity = Identity.of(config, network.config, prepared.train.data_hash, prepared.validation.data_hash)
    prepare_s = time.monotonic() - began
    left_s = None if until_s is None else until_s - prepare_s
    display.started(last_progress(folder).step, config.steps)
    if config.processes > 1:
        # Ray is imported where it is needed only: it takes a second.
        from perception.runtime.distributed_training import Job, train_in_processes

        job = Job(
            config=config,
            train=prepared.train,
            validation=prepared.validation,
            identity=identity,
            folder=folder.resolve(),
            until_s=left_s,
        )
        train_in_processes(job, display, should_stop)
    else:
        with Trainer(
            config,
            network,
            prepared.train,
            prepared.validation,
            folder,
            identity=identity,
            device=device,
            listener=display,
            exact_times=exact_times,
        ) as trainer:
            trainer.run(until_s=left_s, should_stop=should_stop)
    return _account(config, folder, prepared, prepare_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsAccount:
    """What training the path head alone came to on the validation drives. checkpoint: weights with the new head."""

    checkpoint: Path
    before: PathScores
    after: PathScores

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"checkpoint": str(self.checkpoint)}


def run_paths(
    config: TrainingConfig,
    folder: Path,
    display: TrainingDisplay,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> PathsAccount:
    """Train the path head alone on the best weights of the run in `folder`, or on those that `config` starts from.

    Raises UsageError where neither are trained, and what `prepare` and `train_paths` raise.
    """
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    best = folder / BEST
    start = best if best.is_file() else Path(config.model)
    if start.suffix != SUFFIX:
        raise UsageError(
            f"--paths teaches ways to a network that sees already, and {folder} has no weights: run `perception train` "
            "with this CONFIG first, or set `model` to a checkpoint"
        )
    fresh, metadata = load_checkpoint(start, first_network(config).config)
    prepared = prepare(config, fresh.config, progress=display.note, should_stop=should_stop)
    before, after = train_paths(
        fresh,
        prepared.train,
        prepared.validation,
        config,
        training_device(config.device),
        progress=display.note,
        should_stop=should_stop,
    )
    folder.mkdir(parents=True, exist_ok=True)
    header = metadata | {"paths": config.paths.model_dump_json(), "paths_validated": str(after)}
    save_checkpoint(folder / PATHS, fresh.to("cpu"), header)
    return PathsAccount(checkpoint=folder / PATHS, before=before, after=after)


def run_gate(config: TrainingConfig, gate: Gate, folder: Path) -> GateReport:
    """Judge the weights that a finished run left in `folder` by the frames that it was trained on.

    A gate without training judges fresh weights. Raises what `prepare` raises.
    """
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    device = training_device(config.device)
    fresh = first_network(config).to(device)
    prepared = prepare(config, fresh.config, progress=lambda _: None)
    frames = list(prepared.train)
    gradients = judge_gradients(fresh, frames[:GRADIENT_FRAMES], config, device)
    if not gate.trains:
        return gradients
    trained, _ = load_checkpoint(folder / LAST, fresh.config)
    overfit = judge_overfit(trained.to(device), frames, device, gate)
    return GateReport(checks=(*overfit.checks, *gradients.checks), scores=overfit.scores)


def export_weights(checkpoint: Path, target: Path) -> None:
    """A run's weights as they are shipped: in half precision, with what the run says of itself in the header.

    Raises ModelError where the checkpoint cannot be read, UsageError where `target` cannot be written.
    """
    network, metadata = load_checkpoint(checkpoint)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(target, network, metadata, dtype=torch.float16)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--export {target}: cannot be written ({error})") from None


def _account(config: TrainingConfig, folder: Path, prepared: Prepared, prepare_s: float) -> RunAccount:
    progress, best = last_progress(folder), folder / BEST
    return RunAccount(
        folder=folder,
        ending=ending_of(progress, config),
        progress=progress,
        steps=config.steps,
        checkpoint=best if best.is_file() else folder / LAST,
        train_frames=len(prepared.train),
        validation_frames=len(prepared.validation),
        prepare_s=prepare_s,
        stages=read_stages(folder),
        bad_data=dict(prepared.counts),
    )
