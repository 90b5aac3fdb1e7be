"""The training loop: a plain class that takes steps, keeps its state on disk, and goes on where it was killed."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from perception.config.training import TrainingConfig
from perception.core.errors import ModelError
from perception.models.checkpoint import save_checkpoint
from perception.models.network import PerceptionNetwork
from perception.training.augment import augment
from perception.training.average import Average
from perception.training.batch import TrainingBatch
from perception.training.denoising import noisy_copies
from perception.training.dropout import drop_modalities
from perception.training.figures import Figures
from perception.training.forward import forward
from perception.training.frames import TrainingFrame
from perception.training.log import Listener, TrainingLog
from perception.training.losses import compute_losses
from perception.training.optimiser import Optimiser, Statistics, learning_rate
from perception.training.prefetch import Prefetch, to_device
from perception.training.stage_times import StageTimes
from perception.training.start import keep_all_but
from perception.training.state import Identity, Progress, list_states, load_state, save_state
from perception.training.validation import validate
from perception.training.view_geometry import view_geometry
from perception.training.workers import Workers, share_statistics

MAX_SKIPPED: Final = 20
"""So many steps in a row without a finite gradient, and the run is broken."""

BEST, LAST, STAGES = "best.safetensors", "last.safetensors", "stages.json"


class Ending(StrEnum):
    """Why `Trainer.run` came back."""

    FINISHED = "finished"
    EARLY = "stopped early: validation got no better"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Taken:
    """A step that was taken; its figures are still on their way."""

    step: int
    figures: Figures
    seconds: float


class Trainer:
    """Trains a network on frames; `with` closes its log and its reading thread.

    network: with its first weights. identity: of settings and data (`Identity.of`). folder: where states, checkpoints
    and the log go; a state that is there already is gone on from, and UsageError says so where it is one of other
    settings or data. exact_times: wait for the device at each stage, so that the times are those of the work.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: PerceptionNetwork,
        train: Sequence[TrainingFrame],
        validation: Sequence[TrainingFrame],
        folder: Path,
        *,
        identity: Identity,
        device: torch.device,
        workers: Workers | None = None,
        listener: Listener | None = None,
        exact_times: bool = False,
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.workers = workers or Workers()
        self._train, self._validation, self._listener = train, validation, listener
        self.network: PerceptionNetwork = network.to(device).train()
        share_statistics(self.network, self.workers)
        keep_all_but(self.network, config.train_only)
        self.average = Average(self.network, config.optimiser.ema_decay)
        self.optimiser = Optimiser(self.network, config.optimiser, config.steps)
        self.identity = identity
        self.progress = Progress()
        if states := list_states(folder):
            self.progress = load_state(states[-1], self.network, self.average, self.optimiser, self.identity)
        self._statistics = Statistics(self.network)
        self.times = StageTimes(device, exact=exact_times)
        self._log = TrainingLog(folder, from_step=self.progress.step) if self.workers.is_first else None
        self._prefetch: Prefetch | None = None
        self._pending: _Taken | None = None
        self._is_told_to_stop = False

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._prefetch is not None:
            self._prefetch.close()
        if self._log is not None:
            self._log.close()

    def run(
        self,
        *,
        until_step: int | None = None,
        until_s: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Ending:
        """Train until a step, for some seconds, until somebody says stop, or to the end; leaves state and weights.

        Raises ModelError after 20 steps in a row whose loss or gradient was not finite.
        """
        began, config = time.monotonic(), self.config
        end = min(config.steps, until_step or config.steps)
        while self.progress.step < end and not self._is_told_to_stop and not self.progress.is_over:
            late = until_s is not None and time.monotonic() - began >= until_s
            self.step(stop=late or should_stop())
            done = self.progress.step
            if done % config.validate_every == 0 or done == config.steps:
                self.validate()
            if done % config.checkpoint_every == 0:
                self.save()
        self.save()
        self.export(LAST)
        if self.workers.is_first:
            (self.folder / STAGES).write_text(json.dumps(self.times.table(), indent=1), encoding="utf-8")
        return ending_of(self.progress, config)

    def step(self, *, stop: bool = False) -> None:
        """One optimiser step. What it measured is known after the next one, so that nothing waits for the device.

        stop: this worker wants all of them to stop after the next step.
        """
        began, step = time.perf_counter(), self.progress.step
        if self._prefetch is None:
            self._prefetch = self._open_prefetch()
        pieces = self._prefetch.next()
        self.optimiser.zero()
        sums: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            losses = self._losses(piece, step, number)
            with self.times.stage("backward"):
                torch.autograd.backward(losses["loss"] / len(pieces))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(pieces)
        self._settle()
        with self.times.stage("optimiser"):
            sums["stop"] = torch.full_like(sums["loss"], float(stop))
            self.workers.average_([*self.optimiser.gradients, *sums.values()])
            sums["norm"], is_finite = self.optimiser.step(step, sums["loss"])
            self._statistics.keep_if(is_finite)
            self.average.update(step)
        sums["is_finite"] = is_finite.float()
        self.progress.step += 1
        self.progress.samples += self.config.batch_size
        self.times.samples += self.config.batch_size // self.workers.count
        seconds = time.perf_counter() - began
        self.progress.seconds += seconds
        self._pending = _Taken(step=step, figures=Figures(sums), seconds=seconds)

    def validate(self) -> dict[str, Any] | None:
        """Score the averaged weights and export the best; the first worker does it, the others wait.

        None where there is nothing to validate with, and for the others.
        """
        self._settle()
        scores = None
        if len(self._validation) and self.workers.is_first:
            scores = validate(self.average.network, self._validation, self.device, most=self.config.validation_frames)
            self._tell("validation", self.progress.step, scores)
            self._note_scores(scores)
        self.progress.is_over = self.workers.any(self.progress.is_over, self.device)
        return scores

    def save(self) -> None:
        """Write the state of now."""
        self._settle()
        if self.workers.is_first:
            save_state(self.folder, self.network, self.average, self.optimiser, self.progress, self.identity)

    def export(self, name: str, scores: Mapping[str, Any] | None = None) -> None:
        """Write the averaged weights as a checkpoint for use, with what they come from."""
        if self.workers.is_first:
            metadata = {
                "config": self.config.model_dump_json(),
                "steps": str(self.progress.step),
                "samples": str(self.progress.samples),
                "data_hash": self.identity.train_hash,
                "metrics": json.dumps(scores),
            }
            partial = self.folder / f"{name}.partial"
            save_checkpoint(partial, self.average.network, metadata)
            partial.replace(self.folder / name)

    def _note_scores(self, scores: Mapping[str, Any]) -> None:
        progress, nds, patience = self.progress, scores["nds"], self.config.patience
        if nds is not None and (progress.best_nds is None or nds > progress.best_nds):
            progress.best_nds, progress.best_step, progress.stale_validations = nds, progress.step, 0
            self.export(BEST, scores)
        else:
            progress.stale_validations += 1
        progress.is_over = patience is not None and progress.stale_validations >= patience

    def _losses(self, piece: TrainingBatch, step: int, number: int) -> dict[str, Tensor]:
        """Losses of one piece of a step's batch by name, `loss` being their weighted sum."""
        config, model, times = self.config, self.network.config, self.times
        random = _generator(self.device, config.seed, step, self.workers.rank, number)
        way = step / config.steps
        with times.stage("transfer"):
            batch = to_device(piece, self.device)
        with times.stage("augment"):
            batch = drop_modalities(augment(batch, config.augment, model, random, way), config.dropout, random, way)
        with times.stage("geometry"):
            views = view_geometry(batch, model)
        with times.stage("forward"):
            denoising = noisy_copies(batch, config.loss, model, random)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                outputs = forward(self.network, batch, views, denoising)
        with times.stage("losses"):
            losses = compute_losses(outputs, batch, config.loss, model, self.workers.divisor)
        return {"loss": losses.total, **losses.parts}

    def _settle(self) -> None:
        """Take in what the last step measured: it is logged, and skipped steps are counted."""
        taken, self._pending = self._pending, None
        if taken is None:
            return
        figures = taken.figures.read()
        self._is_told_to_stop = figures.pop("stop") > 0
        progress, is_finite = self.progress, figures.pop("is_finite") > 0
        progress.skipped += not is_finite
        progress.skipped_in_a_row = 0 if is_finite else progress.skipped_in_a_row + 1
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            raise ModelError(
                f"the loss or its gradient was not finite in {MAX_SKIPPED} steps in a row, the last of them step "
                f"{taken.step}; lower optimiser.peak_rate or optimiser.clip_norm, or look at the data, and go on from "
                f"the last state in {self.folder}"
            )
        rate = learning_rate(taken.step, self.config.steps, self.config.optimiser)
        speed = self.config.batch_size / max(taken.seconds, 1e-9)
        self._tell("step", taken.step, {**figures, "rate": rate, "skipped": progress.skipped, "samples_per_s": speed})

    def _tell(self, kind: str, step: int, figures: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(kind, step, figures)
        if self._listener is not None and kind == "step":
            self._listener.step(step, self.config.steps, figures)
        elif self._listener is not None:
            self._listener.validation(step, figures)

    def _open_prefetch(self) -> Prefetch:
        return Prefetch(
            self._train,
            self.config,
            self.network.config,
            self.workers,
            self.times,
            first_step=self.progress.step,
            pin=self.device.type == "cuda",
        )


def ending_of(progress: Progress, config: TrainingConfig) -> Ending:
    if progress.is_over:
        return Ending.EARLY
    return Ending.FINISHED if progress.step >= config.steps else Ending.PAUSED


def read_stages(folder: Path) -> dict[str, dict[str, float]]:
    """Where the time of the last `Trainer.run` in a folder went, see `StageTimes.table`."""
    stages: dict[str, dict[str, float]] = json.loads((folder / STAGES).read_text(encoding="utf-8"))
    return stages


def _generator(device: torch.device, *numbers: int) -> torch.Generator:
    """A stream of its own for every step, so that a run that goes on draws what it would have drawn."""
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed >> np.uint64(1)))
