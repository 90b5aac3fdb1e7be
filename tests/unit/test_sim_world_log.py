"""A world log gives back the states it was given, costs little, and survives being cut off."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import DriveError
from perception.core.messages import Signal
from sim.scene import EgoPose
from sim.world_log import Header, WorldLogWriter, read_header, read_steps
from tests.unit.sim_situations import Actor, StraightWorld

PARKED: list[Actor] = [(i, "car", 6.0 * i, 8.0, 0.1, 0.0) for i in range(60)]
MOVING: list[Actor] = [(100 + i, "car", 9.0 * i, -2.0, 0.0, 10.0) for i in range(20)]
STEP_NS = 100_000_000


def _knots(world: StraightWorld, step: int) -> list[EgoPose]:
    return [world.ego_at(at) for at in range(max(0, step * STEP_NS - STEP_NS // 2), step * STEP_NS + 1, STEP_NS // 2)]


def _write(path: Path, steps: int) -> StraightWorld:
    world = StraightWorld(PARKED + MOVING, yaw_rate=0.1)
    writer = WorldLogWriter(path, Header(scenario={"map": "town_grid", "seed": 3}))
    for i in range(steps):
        signal = Signal.RED if i % 3 else Signal.GREEN
        writer.write(world.actors_at(i * STEP_NS), _knots(world, i), {900: "lamp_red"} if i % 2 else {}, signal)
    writer.close()
    return world


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    world = _write(path, 20)
    assert read_header(path).scenario == {"map": "town_grid", "seed": 3}
    read = list(read_steps(path))
    assert len(read) == 20
    for i, step in enumerate(read):
        actors, truth = step.actors, world.actors_at(i * STEP_NS)
        assert actors.time_ns == step.ego[-1].time_ns == i * STEP_NS
        assert len(step.ego) == (2 if i else 1)
        assert actors.actor_id.tolist() == truth.actor_id.tolist()
        assert actors.model == truth.model
        assert np.allclose(actors.world_SE3_actor, truth.world_SE3_actor, atol=1e-6)
        assert np.allclose(actors.velocity_mps, truth.velocity_mps)
        pose, knot = world.ego_at(i * STEP_NS), step.ego[-1]
        assert np.allclose(knot.state[:2], pose.world_SE3_ego[:2, 3])
        assert np.allclose(knot.rate, [10.0, 0.0, 0.1], atol=1e-9)
        assert step.lamps == ({900: "lamp_red"} if i % 2 else {})
        assert step.signal is (Signal.RED if i % 3 else Signal.GREEN)


def test_actors_may_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    writer = WorldLogWriter(path, Header(scenario={}))
    present = [[1, 2], [2], [2, 3], [1, 3]]
    for i, ids in enumerate(present):
        world = StraightWorld([(k, "car" if k != 3 else "pedestrian", 5.0 * k, 0.0, 0.0, 1.0) for k in ids])
        writer.write(world.actors_at(i * STEP_NS), _knots(world, i), {})
    writer.close()
    read = [step.actors for step in read_steps(path)]
    assert [actors.actor_id.tolist() for actors in read] == present
    assert read[3].model == ("car", "pedestrian")


def test_a_second_costs_kilobytes(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    _write(path, 101)
    per_second = path.stat().st_size / 10.0
    assert 500 < per_second < 20_000


def test_a_log_that_was_cut_off_reads_to_its_last_whole_step(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    _write(path, 10)
    path.write_bytes(path.read_bytes()[:-30])
    assert len(list(read_steps(path))) == 9


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"something else entirely")
    with pytest.raises(DriveError, match=r"other\.bin: not a world log"):
        read_header(other)
    with pytest.raises(DriveError, match="cannot read"):
        read_header(tmp_path / "missing.wlog")
    with pytest.raises(DriveError, match="cannot write"):
        WorldLogWriter(tmp_path / "no" / "folder.wlog", Header(scenario={}))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    with pytest.raises(DriveError, match=os.strerror(errno.ENOSPC)):
        WorldLogWriter(Path("/dev/full"), Header(scenario={}))
