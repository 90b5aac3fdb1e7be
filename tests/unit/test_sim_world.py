"""The world as sensors and drivers see it: deterministic, smooth, reacting to the ego, clear in its errors."""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from perception.core.errors import ConfigError, DriveError
from perception.core.geometry import invert, se3_from_yaw
from perception.core.messages import Signal
from perception.core.taxonomy import ATTRIBUTES, CLASS_ATTRIBUTES, CLASSES
from sim.scene import ActorStates, EgoPose, SceneView
from sim.settings import ScenerySettings, TrafficSettings, WorldSettings
from sim.world import World

if importlib.util.find_spec("libsumo") is None:  # loaded here, it would warn of other versions of Arrow
    pytest.skip("needs libsumo", allow_module_level=True)

MS = 1_000_000
SETTINGS = WorldSettings(
    map="town_grid",
    seed=11,
    traffic=TrafficSettings(warmup_s=4.0, vehicles_per_lane_km=6.0),
    scenery=ScenerySettings(buildings=False, trees_per_km=0.0),
    route_length_m=1500.0,
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(SETTINGS) as made:
        made.advance_to(3_000 * MS)
        yield made


def _digest(settings: WorldSettings) -> str:
    """Of everything that moves, at odd times, and of the scenery."""
    digest = hashlib.sha256()
    with World(settings) as made:
        digest.update(made.scenery.vertices_m.tobytes())
        for time_ns in range(0, 2_000 * MS, 37 * MS):
            made.advance_to(time_ns)
            states, ego = made.actors_at(time_ns), made.ego_at(time_ns)
            for array in (
                states.actor_id,
                states.phase,
                states.world_SE3_actor,
                states.velocity_mps,
                ego.world_SE3_ego,
            ):
                digest.update(array.tobytes())
            digest.update(repr((states.model, sorted(made.signal_lamps_at(time_ns).items()))).encode())
    return digest.hexdigest()


def test_one_seed_one_world_twice_in_a_process_and_in_another() -> None:
    first, second = _digest(SETTINGS), _digest(SETTINGS)
    assert first == second
    program = (
        "from tests.unit.test_sim_world import _digest; from sim.settings import WorldSettings\n"
        f"print(_digest(WorldSettings.model_validate_json({SETTINGS.model_dump_json()!r})))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert done.stdout.strip() == first
    assert done.stderr == "", "SUMO and Arrow keep their warnings to themselves"
    assert _digest(SETTINGS.model_copy(update={"seed": 12})) != first


def test_it_is_a_scene_view(world: World) -> None:
    view: SceneView = world
    states = view.actors_at(1_500 * MS)
    assert isinstance(states, ActorStates)
    assert len(set(states.actor_id.tolist())) == len(states) > 20
    assert set(states.model) <= set(view.models)
    for k, name in enumerate(states.model):
        model = view.models[name]
        assert 0 <= states.phase[k] < len(model.phases)
        rotation = states.world_SE3_actor[k, :3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        allowed = CLASS_ATTRIBUTES[CLASSES[model.class_index]] if model.class_index >= 0 else ()
        index = int(states.attribute_index[k])
        assert (index == -1 and not allowed) or ATTRIBUTES[index] in allowed, name


def test_positions_move_as_velocities_say(world: World) -> None:
    for time_ns in (1_013 * MS, 1_250 * MS, 2_071 * MS):
        before, now, after = (world.actors_at(time_ns + d * MS) for d in (-2, 0, 2))
        assert np.array_equal(before.actor_id, after.actor_id)
        measured = (after.world_SE3_actor[:, :3, 3] - before.world_SE3_actor[:, :3, 3]) / 0.004
        # At a step of SUMO the acceleration changes: a central difference over it is off by that much.
        assert np.abs(measured - now.velocity_mps).max() < 0.08
        ego = [world.ego_at(time_ns + d * MS) for d in (-2, 0, 2)]
        moved = (ego[2].world_SE3_ego[:2, 3] - ego[0].world_SE3_ego[:2, 3]) / 0.004
        assert np.allclose(ego[1].world_SE3_ego[:2, :2] @ ego[1].velocity_mps, moved, atol=0.08)


def test_some_drive_some_walk_and_some_are_parked(world: World) -> None:
    states = world.actors_at(2_000 * MS)
    seen = {ATTRIBUTES[index] for index in states.attribute_index.tolist() if index >= 0}
    assert {"vehicle.moving", "vehicle.parked"} <= seen
    speed = np.linalg.norm(states.velocity_mps[:, :2], axis=1)
    parked = states.attribute_index == ATTRIBUTES.index("vehicle.parked")
    assert (speed[parked] == 0).all()
    assert 2.0 < speed.max() < 20.0
    gaps = np.linalg.norm(states.world_SE3_actor[:, :2, 3] - world.ego_at(2_000 * MS).world_SE3_ego[:2, 3], axis=1)
    assert gaps.max() <= SETTINGS.actor_radius_m


def test_vehicles_stay_on_the_road_and_face_where_they_go(world: World) -> None:
    for time_ns in range(0, 3_000 * MS, 250 * MS):
        states = world.actors_at(time_ns)
        drives = np.array([ATTRIBUTES[index] == "vehicle.moving" for index in states.attribute_index.tolist()])
        pose, velocity = states.world_SE3_actor[drives], states.velocity_mps[drives]
        assert world.drivable_at(pose[:, :3, 3]).mean() > 0.97
        speed = np.linalg.norm(velocity, axis=1)
        ahead = np.einsum("ki,ki->k", pose[:, :3, 0], velocity) / np.maximum(speed, 1e-6)
        assert (ahead[speed > 2.0] > 0.8).all()


def test_times_that_are_not_known_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="remembers"):
        world.actors_at(world.horizon_ns + 500 * MS)
    with pytest.raises(ValueError, match="no ego pose"):
        world.ego_at(world.horizon_ns + 5_000 * MS)
    assert world.earliest_ns <= -200 * MS


def test_history_is_bounded() -> None:
    settings = SETTINGS.model_copy(update={"history_s": 2.0, "map": "roundabouts"})
    with World(settings) as made:
        made.advance_to(6_000 * MS)
        assert 2_000 * MS <= 6_000 * MS - made.earliest_ns < 3_000 * MS
        made.actors_at(4_100 * MS)
        with pytest.raises(ValueError, match="remembers"):
            made.actors_at(1_000 * MS)


def test_lamps_show_what_the_lights_say(world: World) -> None:
    lamps = world.signal_lamps_at(2_000 * MS)
    assert set(lamps.values()) <= {"lamp_red", "lamp_yellow", "lamp_green"}
    heads = [k for k, name in enumerate(world.actors_at(2_000 * MS).model) if name.startswith("signal")]
    assert {int(world.actors_at(2_000 * MS).actor_id[k]) for k in heads} <= set(lamps)
    state, distance = world.next_signal(2_000 * MS)
    if distance is not None:
        assert state is not Signal.UNKNOWN
        assert distance > -1.0
        line = next(stop for stop in world.route.stop_lines if stop.arc_m > world.ego_arc_m(2_000 * MS))
        assert world.signal_at(line, 2_000 * MS) is state


def test_the_ego_follows_its_route_when_sumo_drives(world: World) -> None:
    arcs = [world.ego_arc_m(time_ns) for time_ns in range(0, 3_000 * MS, 500 * MS)]
    assert (np.diff(arcs) >= -0.05).all()
    assert arcs[0] < 60.0
    for time_ns in (0, 1_000 * MS, 3_000 * MS):
        point = world.ego_at(time_ns).world_SE3_ego[:2, 3]
        assert abs(world.route.project(point, world.ego_arc_m(time_ns))[1]) < 4.0
        assert world.drivable_at(point)


def test_traffic_stops_behind_an_ego_that_stands_in_its_way() -> None:
    """Closed loop: the ego brakes to a stand on its lane; nobody drives into it, and somebody waits behind."""
    settings = SETTINGS.model_copy(update={"map": "motorway", "seed": 2})
    with World(settings) as made:
        arc, speed = made.ego_arc_m(0), float(made.ego_at(0).velocity_mps[0])
        waiting = 0
        for time_ns in range(50 * MS, 40_000 * MS, 50 * MS):
            speed = max(0.0, speed - 0.15)
            arc += speed * 0.05
            here, ahead = made.route.at(np.array([arc, arc + 0.5]))
            yaw = float(np.arctan2(*(ahead - here)[::-1]))
            pose = EgoPose(
                time_ns=time_ns,
                world_SE3_ego=se3_from_yaw(yaw, (*here, 0.0)),
                velocity_mps=np.array([speed, 0.0]),
                yaw_rate_radps=0.0,
            )
            made.set_ego(pose)
            made.advance_to(time_ns)
            assert made.horizon_ns >= time_ns
            if time_ns % (250 * MS) == 0:
                assert np.allclose(made.ego_at(time_ns).world_SE3_ego, pose.world_SE3_ego, atol=1e-9)
                states = made.actors_at(time_ns)
                for k, name in enumerate(states.model):
                    length, width, _ = made.models[name].box_size_m
                    local = (invert(pose.world_SE3_ego) @ states.world_SE3_actor[k])[:2, 3]
                    beside = abs(local[1]) > (width + settings.ego.width_m) / 2 - 0.25
                    apart = local[0] > settings.ego.front_m + length / 2 or local[0] < -0.9 - length / 2
                    assert beside or apart, f"{name} in the ego at {time_ns / 1e9} s"
                    if -20 < local[0] < 0 and abs(local[1]) < 1.5 and not states.velocity_mps[k].any():
                        waiting += 1
        assert speed == 0.0
        assert waiting > 0


def test_two_worlds_live_side_by_side(world: World) -> None:
    with World(SETTINGS.model_copy(update={"map": "rural", "seed": 1})) as other:
        other.advance_to(1_000 * MS)
        world.advance_to(3_500 * MS)
        assert len(other.actors_at(900 * MS)) != len(world.actors_at(3_400 * MS))
        # On slopes bodies lean with the road.
        pitch = other.ego_at(900 * MS).world_SE3_ego[2, 0]
        assert 0 < abs(pitch) < 0.15


def test_without_libsumo_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libsumo" else find(name))
    with pytest.raises(ConfigError, match="pip install libsumo"):
        World(SETTINGS)


def test_a_sumo_that_dies_is_reported() -> None:
    with World(SETTINGS) as made:
        os.kill(made._traffic._process.pid, signal.SIGKILL)
        with pytest.raises(DriveError, match="SUMO"):
            made.advance_to(60_000 * MS)


def test_settings_name_the_wrong_field() -> None:
    with pytest.raises(ValueError, match="vehicels"):
        TrafficSettings.model_validate({"vehicels": 3})
    with pytest.raises(ValueError, match="less than or equal to 1"):
        TrafficSettings(parked_share=1.5)
