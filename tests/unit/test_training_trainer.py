"""The training loop: it learns, stops when told, skips what is not finite, and goes on as if nothing had happened."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from perception.config.training import LossConfig, OptimiserConfig
from perception.core.errors import ConfigError, ModelError, UsageError
from perception.models.checkpoint import load_checkpoint, load_model
from perception.models.network import build_network
from perception.training.log import read_metrics
from perception.training.state import list_states
from perception.training.trainer import Ending, Trainer
from tests.training_runs import MINI, PLAIN, WHOLE, mini_config, mini_frames, mini_trainer

FRAMES = mini_frames(6)


def losses(folder: Path) -> list[tuple[int, float, float]]:
    """Loss and norm by step, as logged."""
    return [(line["step"], line["loss"], line["norm"]) for line in read_metrics(folder) if line["kind"] == "step"]


def run(folder: Path, **changes: Any) -> tuple[Trainer, Ending]:
    with mini_trainer(mini_config(**changes), folder, FRAMES) as trainer:
        return trainer, trainer.run()


def test_the_loss_falls_and_usable_weights_are_left(tmp_path: Path) -> None:
    trainer, ending = run(tmp_path, steps=40, augment=PLAIN, dropout=WHOLE, optimiser=OptimiserConfig(peak_rate=5e-3))
    assert ending is Ending.FINISHED
    curve = [loss for _, loss, _ in losses(tmp_path)]
    assert len(curve) == 40
    assert np.mean(curve[-6:]) < 0.75 * np.mean(curve[:3])
    network, metadata = load_checkpoint(tmp_path / "last.safetensors")
    averaged = trainer.average.network.state_dict()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in network.state_dict().items())
    assert metadata["steps"] == "40"
    assert metadata["samples"] == "160"
    assert metadata["data_hash"] == "frames"
    assert json.loads(metadata["config"])["optimiser"]["peak_rate"] == 5e-3
    assert load_model(str(tmp_path / "last.safetensors")).info.trained


def test_only_the_named_parts_learn(tmp_path: Path) -> None:
    first = build_network(MINI).state_dict()
    trainer, _ = run(tmp_path, train_only=("path_head", "memory"), steps=6)
    changed = {name for name, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, first[name])}
    assert {name.partition(".")[0] for name in changed} == {"path_head", "memory"}
    with pytest.raises(ConfigError, match=r"has no wheels; its parts are camera_encoder, .*path_head"):
        run(tmp_path / "other", train_only=("wheels",))


@pytest.mark.parametrize("piece", [1, 7])
def test_a_run_in_pieces_is_the_same_run(tmp_path: Path, piece: int) -> None:
    """Augmentation, dropout and denoising on: what they draw depends on the step alone."""
    whole, _ = run(tmp_path / "whole")
    config = mini_config()
    while True:
        with mini_trainer(config, tmp_path / "pieces", FRAMES) as trainer:
            until = trainer.progress.step + piece
            if trainer.run(until_step=until) is Ending.FINISHED:
                break
            assert trainer.progress.step == until
    assert losses(tmp_path / "pieces") == losses(tmp_path / "whole")
    for one, other in ((whole.network, trainer.network), (whole.average.network, trainer.average.network)):
        for tensor, again in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(tensor, again)
    assert trainer.progress.samples == whole.progress.samples


def test_what_was_logged_beyond_the_state_is_taken_back(tmp_path: Path) -> None:
    """As after a kill: the log is at step 12, the last whole state at step 10."""
    run(tmp_path)
    curve = losses(tmp_path)
    list_states(tmp_path)[-1].unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    with mini_trainer(mini_config(), tmp_path, FRAMES) as trainer:
        assert trainer.progress.step == 10
        trainer.run()
    assert losses(tmp_path) == curve


def test_it_stops_when_told_and_leaves_its_state(tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with mini_trainer(mini_config(), tmp_path, FRAMES) as trainer:
        assert trainer.run(should_stop=lambda: next(asked, True)) is Ending.PAUSED
    assert 3 <= trainer.progress.step <= 5
    with mini_trainer(mini_config(), tmp_path, FRAMES) as again:
        assert again.progress.step == trainer.progress.step


def test_it_stops_when_its_time_is_up(tmp_path: Path) -> None:
    with mini_trainer(mini_config(), tmp_path, FRAMES) as trainer:
        assert trainer.run(until_s=0.0) is Ending.PAUSED
    assert 1 <= trainer.progress.step <= 2


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(UsageError, match="seed was 0, is 1"):
        mini_trainer(mini_config(seed=1), tmp_path, FRAMES)


def test_validation_that_gets_no_better_ends_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    config = mini_config(steps=40, validate_every=2, patience=3, optimiser=OptimiserConfig(peak_rate=1e-9))
    with mini_trainer(config, tmp_path, FRAMES, mini_frames(2, first=50)) as trainer:
        assert trainer.run() is Ending.EARLY
    assert trainer.progress.best_step == 2
    assert trainer.progress.step == 8
    _, metadata = load_checkpoint(tmp_path / "best.safetensors")
    assert metadata["steps"] == "2"
    scores = json.loads(metadata["metrics"])
    assert set(scores["subsets"]) >= {"camera+lidar+radar", "camera", "lidar", "radar"}
    assert sum(line["kind"] == "validation" for line in read_metrics(tmp_path)) == 4
    with mini_trainer(config, tmp_path, FRAMES, mini_frames(2, first=50)) as again:
        assert again.run() is Ending.EARLY
    assert again.progress.step == 8


def test_a_batch_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    """One of the frames gives losses of nan: the steps that it is in change nothing."""
    broken = [*FRAMES[:5], replace(FRAMES[5], ego=np.full_like(FRAMES[5].ego, np.nan))]
    with mini_trainer(mini_config(batch_size=1, steps=12), tmp_path, broken) as trainer:
        trainer.run()
    assert trainer.progress.skipped == 2
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "step"]
    assert sum(line["loss"] is None for line in lines) == 2
    assert lines[-1]["skipped"] == 2
    for network in (trainer.network, trainer.average.network):
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_twenty_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    broken = [replace(frame, ego=np.full_like(frame.ego, np.nan)) for frame in FRAMES]
    with (
        mini_trainer(mini_config(batch_size=1, steps=40), tmp_path, broken) as trainer,
        pytest.raises(ModelError, match=r"20 steps in a row, the last of them step 19; lower optimiser.peak_rate"),
    ):
        trainer.run()


def test_an_error_in_reading_ends_the_run_as_itself(tmp_path: Path) -> None:
    wrong = [replace(FRAMES[0], path_m=FRAMES[0].path_m[:2], path_known=FRAMES[0].path_known[:2])]
    with (
        mini_trainer(mini_config(), tmp_path, wrong) as trainer,
        pytest.raises(ValueError, match="its path has 2 steps"),
    ):
        trainer.run()


def test_pieces_of_a_batch_add_up(tmp_path: Path) -> None:
    """With the norms' statistics fixed, a batch in pieces of one frame has the gradient of the mean over frames."""
    norms = []
    loss = LossConfig(denoising=0)
    for micro_batch in (None, 2, 4):
        config = mini_config(augment=PLAIN, dropout=WHOLE, loss=loss, micro_batch=micro_batch, steps=1)
        with mini_trainer(config, tmp_path / str(micro_batch), [FRAMES[0]]) as trainer:
            trainer.network.eval()
            trainer.run()
        norms.append(losses(tmp_path / str(micro_batch))[0][1:])
    assert norms[0] == pytest.approx(norms[1], rel=5e-3)
    assert norms[0] == pytest.approx(norms[2], rel=5e-3)


def test_half_precision_trains_with_losses_and_weights_in_full(tmp_path: Path) -> None:
    quiet = {"augment": PLAIN, "dropout": WHOLE, "loss": LossConfig(denoising=0), "steps": 2}
    run(tmp_path / "full", **quiet)
    half, _ = run(tmp_path / "half", **quiet, precision="bfloat16")
    first, again = losses(tmp_path / "full")[0][1], losses(tmp_path / "half")[0][1]
    assert again == pytest.approx(first, rel=0.05)
    assert again != first
    assert all(parameter.dtype == torch.float32 for parameter in half.network.parameters())


def test_the_time_of_every_stage_is_kept(tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, steps=3)
    table = trainer.times.table()
    assert trainer.times.samples == 12
    assert all(table[name]["seconds"] > 0 for name in ("read", "collate", "forward", "losses", "backward", "optimiser"))
    assert json.loads((tmp_path / "stages.json").read_text()) == table
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a library does not touch signals
