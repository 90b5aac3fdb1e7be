"""Two training processes of a real Ray do what one process does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.config.training import LossConfig, OptimiserConfig, TrainingConfig
from perception.core.errors import ConfigError, ModelError
from perception.runtime.distributed_training import Job, train_in_processes
from perception.training.frames import TrainingFrame
from perception.training.log import read_metrics
from perception.training.state import Identity
from tests.training_runs import MINI, PLAIN, WHOLE, mini_config, mini_frames, mini_trainer
from tests.training_scenes import make_frame

pytestmark = pytest.mark.ray

TOLERANCE, TIED_TOLERANCE = 1e-5, 3e-2
"""Relative, of most steps and of all. Sums are taken in another order; in frames with empty cells, which are all alike,
the last bits then decide which of them become queries, and the loss of that step differs."""
STEPS = 8
PLAIN_STEPS = OptimiserConfig(name="sgd", peak_rate=3e-4)
"""AdamW turns the last bits of small gradients into steps of full size, and would not notice a wrong factor."""


class Told:
    """Remembers which steps it was told of."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, step: int, steps: int, figures: Mapping[str, Any]) -> None:
        self.steps.append(step)

    def validation(self, step: int, figures: Mapping[str, Any]) -> None:
        self.steps.append(step)


def config(**changes: Any) -> TrainingConfig:
    """Nothing is drawn: each process draws for its own part of a batch."""
    settings: dict[str, Any] = {
        "augment": PLAIN,
        "dropout": WHOLE,
        "loss": LossConfig(denoising=0),
        "steps": STEPS,
        "threads": 1,
        "model_settings": MINI,
    }
    return mini_config(**(settings | changes))


def job(folder: Path, settings: TrainingConfig, frames: list[TrainingFrame]) -> Job:
    identity = Identity.of(settings, MINI, "frames", "validation")
    return Job(config=settings, train=frames, validation=[], identity=identity, folder=folder)


def curve(folder: Path, name: str) -> list[float]:
    return [line[name] for line in read_metrics(folder) if line["kind"] == "step"]


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Frames with few and with many objects and sensors, so that a mean of two means would be another mean."""
    sparse = [make_frame(30 + i, config=MINI, objects=i, cameras=(), clutter=50) for i in range(2)]
    frames = [*mini_frames(3), *sparse, make_frame(40, config=MINI, objects=12, lidars=2)]
    with mini_trainer(config(optimiser=PLAIN_STEPS), tmp_path / "one", frames) as trainer:
        trainer.run()
    told = Told()
    train_in_processes(job(tmp_path / "two", config(processes=2, optimiser=PLAIN_STEPS), frames), told)
    for name in ("loss", "norm"):
        one, two = curve(tmp_path / "one", name), curve(tmp_path / "two", name)
        assert len(one) == STEPS
        assert two[:2] == pytest.approx(one[:2], rel=TOLERANCE)
        apart = np.sort(np.abs(np.array(two) / np.array(one) - 1))
        assert apart[STEPS // 2 - 1] < TOLERANCE
        assert apart[-1] < TIED_TOLERANCE
    assert told.steps == list(range(STEPS))
    with mini_trainer(config(optimiser=PLAIN_STEPS), tmp_path / "two", frames) as alone:
        assert alone.progress.step == STEPS  # one process goes on from what two have done


def test_an_error_of_a_process_arrives_as_itself(tmp_path: Path) -> None:
    broken = [replace(frame, ego=np.full_like(frame.ego, np.nan)) for frame in mini_frames(2)]
    with pytest.raises(ModelError, match="20 steps in a row"):
        train_in_processes(job(tmp_path, config(processes=2, batch_size=2, steps=40), broken), Told())


def test_a_caller_that_is_interrupted_lives_on(tmp_path: Path) -> None:
    """Ray aborts a process that shuts it down while a thread waits inside it."""
    told = Told()

    def interrupt() -> bool:
        if told.steps:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train_in_processes(
            job(tmp_path, config(processes=2, batch_size=2, steps=100_000), mini_frames(2)), told, interrupt
        )
    assert curve(tmp_path, "loss")


def test_a_batch_that_cannot_be_dealt_out_equally_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of processes 3"):
        train_in_processes(job(tmp_path, config(processes=3), mini_frames(1)), Told())
