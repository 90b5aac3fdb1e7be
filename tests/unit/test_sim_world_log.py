"""A world log gives back the states it was given, costs little, and survives being cut off."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import DriveError
from sim.world_log import Header, WorldLogWriter, read_header, read_steps
from tests.unit.sim_situations import Actor, StraightWorld

PARKED: list[Actor] = [(i, "car", 6.0 * i, 8.0, 0.1, 0.0) for i in range(60)]
MOVING: list[Actor] = [(100 + i, "car", 9.0 * i, -2.0, 0.0, 10.0) for i in range(20)]
STEP_NS = 100_000_000


def _write(path: Path, steps: int) -> StraightWorld:
    world = StraightWorld(PARKED + MOVING, yaw_rate=0.1)
    writer = WorldLogWriter(path, Header(scenario={"map": "town_grid", "seed": 3}, start_ns=0))
    for i in range(steps):
        writer.write(world.actors_at(i * STEP_NS), world.ego_at(i * STEP_NS), {900: "lamp_red"} if i % 2 else {})
    writer.close()
    return world


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    world = _write(path, 20)
    assert read_header(path).scenario == {"map": "town_grid", "seed": 3}
    read = list(read_steps(path))
    assert len(read) == 20
    for i, (actors, ego, lamps) in enumerate(read):
        truth = world.actors_at(i * STEP_NS)
        assert actors.time_ns == ego.time_ns == i * STEP_NS
        assert actors.actor_id.tolist() == truth.actor_id.tolist()
        assert actors.model == truth.model
        assert np.allclose(actors.world_SE3_actor, truth.world_SE3_actor, atol=1e-6)
        assert np.allclose(actors.velocity_mps, truth.velocity_mps)
        assert np.array_equal(ego.world_SE3_ego, world.ego_at(i * STEP_NS).world_SE3_ego)
        assert lamps == ({900: "lamp_red"} if i % 2 else {})


def test_actors_may_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    writer = WorldLogWriter(path, Header(scenario={}, start_ns=0))
    present = [[1, 2], [2], [2, 3], [1, 3]]
    for i, ids in enumerate(present):
        world = StraightWorld([(k, "car" if k != 3 else "pedestrian", 5.0 * k, 0.0, 0.0, 1.0) for k in ids])
        writer.write(world.actors_at(i * STEP_NS), world.ego_at(i * STEP_NS), {})
    writer.close()
    read = [actors for actors, _, _ in read_steps(path)]
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
        WorldLogWriter(tmp_path / "no" / "folder.wlog", Header(scenario={}, start_ns=0))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    with pytest.raises(DriveError, match=os.strerror(errno.ENOSPC)):
        WorldLogWriter(Path("/dev/full"), Header(scenario={}, start_ns=0))
