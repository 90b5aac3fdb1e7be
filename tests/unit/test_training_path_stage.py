"""The path head alone: it learns where to go, nothing else changes, and the best head is kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.config.training import LossConfig, OptimiserConfig, PathStageConfig
from perception.core.errors import DriveError, UsageError
from perception.models.network import build_network
from perception.runtime.training_run import run_paths
from perception.training.frames import TrainingFrame
from perception.training.log import open_training_display
from perception.training.path_stage import path_samples, score_paths, train_paths
from tests.training_runs import MINI, PLAIN, WHOLE, mini_config, mini_frames

CPU = torch.device("cpu")
STAGE = PathStageConfig(draws=1, steps=90, batch_size=8, validate_every=30, optimiser=OptimiserConfig(peak_rate=5e-3))
CONFIG = mini_config(augment=PLAIN, dropout=WHOLE, paths=STAGE, loss=LossConfig(mode_softness_m=0.5))


def bending_left(frames: Sequence[TrainingFrame]) -> list[TrainingFrame]:
    """Every way leaves the arc to the left by half a metre more each half second; speed 7 m/s is aimed for."""
    times = np.arange(1, 7) * 0.5
    steps = np.stack([frames[0].ego[0] * times, times], axis=1).astype(np.float32)
    still = []
    for frame in frames:
        ego = frame.ego.copy()
        ego[:2] = frames[0].ego[0], 0.0
        still.append(replace(frame, ego=ego, path_m=steps, path_known=np.ones(6, dtype=np.bool_), target_speed_mps=7.0))
    return still


def test_the_head_learns_and_the_rest_stays() -> None:
    network = build_network(MINI)
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told: list[str] = []
    frames = bending_left(mini_frames(4))
    before, after = train_paths(network, frames, bending_left(mini_frames(2, first=10)), CONFIG, CPU, told.append)
    assert before.arc_ade_m == pytest.approx(1.75, abs=0.01)
    assert before.surest_ade_m > 1.0
    assert after.surest_ade_m < 0.4
    assert after.speed_mps < before.speed_mps
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, first[name])}
    assert {name.partition(".")[0] for name in changed} == {"path_head"}
    assert sum("step" in line for line in told) == 3
    judged = path_samples(network.eval(), bending_left(mini_frames(2, first=10)), CONFIG, CPU, draws=0)
    assert score_paths(network.path_head, judged) == after


def test_what_the_head_is_given_is_what_it_is_given_in_the_network() -> None:
    network, frames = build_network(MINI).eval(), mini_frames(3)
    samples = path_samples(network, frames, CONFIG, CPU, draws=0)
    assert len(samples) == 3
    drawn = path_samples(network, frames, mini_config(paths=STAGE), CPU, draws=2)
    assert len(drawn) == 6
    again = path_samples(network, frames, mini_config(paths=STAGE), CPU, draws=2)
    assert torch.equal(drawn.objects, again.objects)
    assert not torch.equal(drawn.objects[:3], drawn.objects[3:])


def test_frames_that_know_no_path_are_left_out() -> None:
    unknown = [replace(frame, path_known=np.zeros(6, dtype=np.bool_)) for frame in mini_frames(2)]
    network = build_network(MINI).eval()
    assert len(path_samples(network, [*unknown, *mini_frames(1)], CONFIG, CPU, draws=0)) == 1
    with pytest.raises(DriveError, match="followed by the seconds"):
        train_paths(network, unknown, mini_frames(1), CONFIG, CPU, print)


def test_a_stage_that_is_told_to_stop_keeps_the_best_head_so_far() -> None:
    network, told = build_network(MINI), list[str]()
    frames = bending_left(mini_frames(2))
    before, after = train_paths(network, frames, frames, CONFIG, CPU, told.append, should_stop=lambda: True)
    assert sum("step" in line for line in told) == 1
    assert after.surest_ade_m <= before.surest_ade_m


def test_ways_are_not_taught_to_a_network_that_sees_nothing(tmp_path: Path) -> None:
    with open_training_display(quiet=True) as display, pytest.raises(UsageError, match="set `model` to a checkpoint"):
        run_paths(CONFIG, tmp_path, display)
