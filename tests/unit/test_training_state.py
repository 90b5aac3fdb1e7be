"""States on disk: all of a run, whole or not there at all, and refused where it is another run's."""

from pathlib import Path

import pytest
import torch

from perception.config.training import DataConfig, OptimiserConfig
from perception.core.errors import ModelError, UsageError
from perception.models.checkpoint import save_checkpoint
from perception.models.network import PerceptionNetwork, build_network
from perception.training.average import Average
from perception.training.optimiser import Optimiser
from perception.training.state import (
    FORMAT,
    Identity,
    Progress,
    last_progress,
    list_states,
    load_state,
    save_state,
)
from tests.training_runs import MINI, mini_config

Parts = tuple[PerceptionNetwork, Average[PerceptionNetwork], Optimiser]


def parts(name: str = "adamw", seed: int = 0) -> Parts:
    network = build_network(MINI.model_copy(update={"seed": seed}))
    config = OptimiserConfig.model_validate({"name": name})
    return network, Average(network, 0.9), Optimiser(network, config, steps=10)


def take_steps(found: Parts, first: int, count: int) -> None:
    network, average, optimiser = found
    for step in range(first, first + count):
        optimiser.zero()
        loss = torch.stack([parameter.square().sum() * (1 + step) for parameter in network.parameters()]).sum()
        torch.autograd.backward(loss)
        optimiser.step(step, loss)
        average.update(step)


def identity(**changes: object) -> Identity:
    return Identity.of(mini_config(**changes), MINI, "abc", "def")


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_what_goes_on_from_a_state_is_what_would_have_been(tmp_path: Path, name: str) -> None:
    undisturbed, killed, resumed = parts(name), parts(name), parts(name, seed=1)
    take_steps(undisturbed, 0, 6)
    take_steps(killed, 0, 3)
    progress = Progress(step=3, samples=12, skipped=2, best_nds=0.25, best_step=2)
    path = save_state(tmp_path, *killed, progress, identity())
    assert load_state(path, *resumed, identity()) == progress
    take_steps(resumed, 3, 3)
    for one, other in ((undisturbed[0], resumed[0]), (undisturbed[1].network, resumed[1].network)):
        for tensor, again in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(tensor, again)


def test_the_last_two_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    found = parts()
    for step in (5, 10, 15):
        save_state(tmp_path, *found, Progress(step=step), identity())
    assert [path.name for path in list_states(tmp_path)] == ["state-00000010.safetensors", "state-00000015.safetensors"]
    assert len(list(tmp_path.iterdir())) == 2
    assert last_progress(tmp_path).step == 15
    assert last_progress(tmp_path / "nothing").step == 0


def test_another_run_is_refused_and_every_difference_named(tmp_path: Path) -> None:
    path = save_state(tmp_path, *parts(), Progress(step=1), identity())
    other = Identity.of(mini_config(batch_size=8, optimiser=OptimiserConfig(peak_rate=5e-4)), MINI, "another", "def")
    with pytest.raises(UsageError) as error:
        load_state(path, *parts(), other)
    text = str(error.value)
    assert "batch_size was 4, is 8" in text
    assert "optimiser.peak_rate was 0.001, is 0.0005" in text
    assert "frames to train on were abc, are another" in text
    assert "--fresh" in text
    assert "validate" not in text


def test_the_schedule_and_where_it_runs_may_change(tmp_path: Path) -> None:
    path = save_state(tmp_path, *parts(), Progress(step=1), identity())
    data = DataConfig(drives=("elsewhere",), workers=0)
    changed = identity(steps=50, patience=3, validate_every=7, checkpoint_every=9, threads=1, processes=2, data=data)
    assert load_state(path, *parts(), changed).step == 1


def test_another_network_is_another_run() -> None:
    wider = MINI.model_copy(update={"width": 32})
    assert identity().differences(Identity.of(mini_config(), wider, "abc", "def")) == ["model.width was 16, is 32"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04pickle"])
def test_a_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state-00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"state-00000001.*delete it"):
        load_state(path, *parts(), identity())


def test_a_cut_off_state_is_named(tmp_path: Path) -> None:
    path = save_state(tmp_path, *parts(), Progress(step=1), identity())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a readable state"):
        load_state(path, *parts(), identity())


def test_a_checkpoint_for_use_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "state-00000001.safetensors"
    save_checkpoint(path, parts()[0])
    with pytest.raises(ModelError, match=FORMAT):
        load_state(path, *parts(), identity())
