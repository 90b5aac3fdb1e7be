"""The simulator as a source, for real: SUMO, sensors, labels, the closed loop, world logs."""

import hashlib
import importlib.util
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import UsageError
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, RouteCommand
from perception.core.motion import MotionSource
from perception.core.ports import Source, Steerable
from perception.core.results import Detections, PathHints, PerceptionResult, Provenance
from sim.logged_world import LoggedWorld
from sim.routes import route_scenarios, run_route, run_routes
from sim.scenario import ScenarioConfig, load_scenario
from sim.source import SimulatorFormat, SimulatorSource, SteerableSimulator, open_simulator

if importlib.util.find_spec("libsumo") is None:  # loaded here, it would warn of other versions of Arrow
    pytest.skip("needs libsumo", allow_module_level=True)

RIG = """
sensors:
  - type: lidar
    name: lidar
    mount: {x_m: 0.9, y_m: 0, z_m: 1.8}
    timing: {rate_hz: 10, delay_ms: 12, delay_jitter_ms: 2}
    beams: 32
    columns: 180
  - type: camera
    name: front
    mount: {x_m: 1.6, y_m: 0, z_m: 1.5}
    timing: {rate_hz: 5, phase_ms: 40, delay_ms: 30, delay_jitter_ms: 5}
    width_px: 64
    height_px: 32
    intrinsics: {fx: 40, fy: 40, cx: 32, cy: 12}
  - type: radar
    name: radar
    mount: {x_m: 3.6, y_m: 0, z_m: 0.6}
    timing: {rate_hz: 10, phase_ms: 20, delay_ms: 15}
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rig") / "small.yaml"
    path.write_text(RIG)
    return str(path)


def _scenario(rig: str, *settings: str) -> ScenarioConfig:
    small = ("duration_s=1.5", "scenery.buildings=false", "scenery.trees_per_km=2", "route_length_m=400", "seed=5")
    return load_scenario(None, [f"rig={rig}", *small, "traffic.warmup_s=5", "traffic.max_vehicles=40", *settings])


def _digest(messages: Iterator[AnyMessage]) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"{message.sensor} {message.capture_ns} {message.arrival_ns}".encode())
        if isinstance(message, CameraFrame):
            digest.update(message.data)
        elif isinstance(message, LidarSweep | RadarScan):
            digest.update(message.points_m.tobytes())
        elif isinstance(message, EgoState) and message.world_SE3_ego is not None:
            digest.update(message.world_SE3_ego.tobytes())
        elif isinstance(message, RouteCommand):
            digest.update(f"{message.command} {message.signal} {message.distance_m} {message.target_m}".encode())
    return digest.hexdigest()


def _result(reference_ns: int, waypoints: np.ndarray, speed: float, latency_ns: int = 0) -> PerceptionResult:
    return PerceptionResult(
        drive_id="d",
        run_id="r",
        sequence=0,
        reference_ns=reference_ns,
        published_ns=0,
        detections=Detections.empty(),
        path_hints=PathHints(
            confidence=np.ones(1, dtype=np.float32),
            waypoints_m=waypoints[None].astype(np.float32),
            times_s=np.arange(1, 7, dtype=np.float32) * 0.5,
            target_speed_mps=speed,
        ),
        sensors=(),
        world_SE3_ego=None,
        provenance=Provenance(
            model="test",
            model_hash="0",
            trained=False,
            calibration_hash="0",
            ego_motion=MotionSource.POSES,
            placement="local",
            deadline_slack_ns=0,
            stage_latency_ns={"fusion": latency_ns},
        ),
    )


def test_messages_come_in_order_at_their_rates_with_labels(rig: str) -> None:
    source = open_simulator(_scenario(rig))
    assert isinstance(source, Source)
    assert not isinstance(source, Steerable)
    counts: Counter[str] = Counter()
    arrivals, labelled = [], []
    for message in source.messages():
        counts[message.sensor] += 1
        arrivals.append(message.arrival_ns)
        assert message.arrival_ns > message.capture_ns
        if isinstance(message, LidarSweep):
            labels = source.labels(message.capture_ns)
            assert labels is not None
            assert labels.reference_ns == message.capture_ns
            assert labels.visible_share is not None
            assert ((labels.visible_share >= 0) & (labels.visible_share <= 1)).all()
            # What is hidden from the cameras can hardly be hit by the lidar beside them.
            assert labels.num_lidar_points[labels.visible_share == 0].sum() < 0.1 * labels.num_lidar_points.sum() + 5
            labelled.append(message.capture_ns)
    assert arrivals == sorted(arrivals)
    assert (counts["lidar"], counts["front"], counts["radar"], counts["ego"], counts["route"]) == (14, 8, 15, 150, 15)
    assert tuple(labelled) == source.label_times_ns
    assert source.labels(1) is None
    source.close()


def test_equal_scenarios_give_equal_bytes_and_other_seeds_others(rig: str) -> None:
    source = open_simulator(_scenario(rig))
    first = _digest(source.messages())
    assert _digest(source.messages()) == first
    source.close()
    again, other = open_simulator(_scenario(rig)), open_simulator(_scenario(rig, "seed=6"))
    assert _digest(again.messages()) == first
    assert _digest(other.messages()) != first
    assert again.drive_id == source.drive_id != other.drive_id
    again.close()
    other.close()


def test_faults_strike_the_stream_and_spare_the_truth(rig: str) -> None:
    faults = "faults=[{type: drop, sensors: [lidar], start_s: 0.5}, {type: delay, sensors: [radar], delay_ms: 120}]"
    source = open_simulator(_scenario(rig, faults))
    seen = list(source.messages())
    sweeps = [message.capture_ns for message in seen if isinstance(message, LidarSweep)]
    delays = [m.arrival_ns - m.capture_ns for m in seen if isinstance(m, RadarScan)]
    assert max(sweeps) < 500_000_000
    assert min(delays) >= 135_000_000
    assert [m.arrival_ns for m in seen] == sorted(m.arrival_ns for m in seen)
    assert source.labels(source.label_times_ns[-1]) is not None
    source.close()


def test_a_world_log_renders_the_same_drive_again(rig: str, tmp_path: Path) -> None:
    path = tmp_path / "drive.wlog"
    source = SimulatorSource(_scenario(rig), log=path)
    for _ in source.messages():
        pass
    logged = LoggedWorld(path)
    for time_ns in (0, 130_000_000, 777_000_001, 1_400_000_000):
        truth, read = source.world.actors_at(time_ns), logged.actors_at(time_ns)
        rows = {int(actor): i for i, actor in enumerate(read.actor_id)}
        index = [rows[int(a)] for a in truth.actor_id if int(a) in rows]
        both = np.isin(truth.actor_id, read.actor_id)
        assert both.mean() > 0.95
        assert np.allclose(truth.world_SE3_actor[both], read.world_SE3_actor[index], atol=2e-3)
        assert np.allclose(source.world.ego_at(time_ns).world_SE3_ego, logged.ego_at(time_ns).world_SE3_ego, atol=1e-6)
        assert source.world.next_signal(time_ns) == pytest.approx(logged.next_signal(time_ns))
        assert source.world.signal_lamps_at(time_ns) == logged.signal_lamps_at(time_ns)
    source.close()
    assert path.stat().st_size < 60_000
    again = SimulatorFormat.open(str(path), None)
    night = SimulatorSource(_scenario(rig, "weather.kind=night", "duration_s=0.5"), replay=path)
    day_frame = next(m for m in again.messages() if isinstance(m, CameraFrame))
    night_frame = next(m for m in night.messages() if isinstance(m, CameraFrame))
    assert day_frame.capture_ns == night_frame.capture_ns
    assert day_frame.data != night_frame.data
    again.close()
    night.close()


def test_the_closed_loop_follows_what_it_is_told(rig: str) -> None:
    settings = ("loop=lockstep", "driver=hints", "start.speed_mps=6", "duration_s=2.5")
    driven = {}
    for side in (-1.0, 1.0):
        source = open_simulator(_scenario(rig, *settings))
        assert isinstance(source, SteerableSimulator)
        angle = np.arange(1.0, 7.0) * 0.2
        waypoints = np.stack([15 * np.sin(angle), side * 15 * (1 - np.cos(angle))], axis=1)
        for message in source.messages():
            if isinstance(message, LidarSweep):
                source.apply(_result(message.capture_ns, waypoints, 6.0))
        start = source.world.ego_at(0)
        driven[side] = source.future_path(0, np.array([2.4]))[0]
        assert start.velocity_mps[0] == pytest.approx(6.0)
        assert source.score().duration_s > 2.0
        source.close()
    assert driven[1.0][1] > 2.0
    assert driven[-1.0][1] < -2.0
    assert math.isclose(driven[1.0][0], driven[-1.0][0], abs_tol=1.0)


def test_a_late_result_takes_effect_late(rig: str) -> None:
    settings = ("driver=hints", "start.speed_mps=8", "duration_s=1.2")
    ahead = np.stack([np.arange(1.0, 7.0) * 5, np.zeros(6)], axis=1)
    speeds = {}
    for name, loop in (
        ("now", ("loop=lockstep",)),
        ("late", ("loop=async", "latency_ms=600")),
        ("measured", ("loop=async",)),
    ):
        source = open_simulator(_scenario(rig, *settings, *loop))
        assert isinstance(source, SteerableSimulator)
        for message in source.messages():
            if isinstance(message, LidarSweep):
                source.apply(_result(message.capture_ns, ahead, 8.0, latency_ns=300_000_000))
        speeds[name] = source.world.ego_at(1_100_000_000).velocity_mps[0]
        source.close()
    # Without a result the ego brakes: the later the first takes effect, the slower it is by then.
    assert speeds["now"] > speeds["measured"] + 0.3 > speeds["late"] + 0.6


def test_nothing_captured_later_than_a_result_was_seen_before_it(rig: str) -> None:
    source = open_simulator(_scenario(rig, "loop=lockstep", "driver=oracle", "start.speed_mps=5"))
    for message in itertools.islice(source.messages(), 120):
        assert source.world.horizon_ns < message.arrival_ns + 450_000_000
        assert message.capture_ns < message.arrival_ns
    source.close()


def test_the_oracle_drives_a_route_without_touching_anybody(rig: str) -> None:
    scenario = _scenario(rig, "map=town_irregular", "duration_s=25", "start.offset_m=1.0", "start.speed_mps=5")
    score = run_route(scenario, "oracle")
    assert (score.collisions, score.red_lights) == (0, 0)
    assert score.driven_m > 60.0
    assert score.mean_offset_m < 0.5
    assert score == run_route(scenario, "oracle")
    blind = run_route(scenario, "constant")
    assert replace(blind, name="", duration_s=0) != replace(score, name="", duration_s=0)
    assert blind.off_road_s > score.off_road_s or blind.collisions > 0


def test_results_need_a_running_world(rig: str) -> None:
    source = SteerableSimulator(_scenario(rig, "loop=lockstep"))
    with pytest.raises(UsageError, match="iterate messages"):
        source.apply(_result(0, np.zeros((6, 2)), 1.0))
    with pytest.raises(UsageError, match="sim: takes a scenario"):
        SimulatorFormat.open("sim:tiny,seed", None)
    assert SimulatorFormat.detect("sim:tiny,seed=3")
    assert not SimulatorFormat.detect("/some/folder")


def test_route_suites_name_each_route_and_differ_by_seed() -> None:
    suite = route_scenarios(["rural"], [3, 4], route_length_m=60.0)
    first, second = run_routes([scenario.model_copy(update={"duration_s": 8.0}) for scenario in suite], "oracle")
    assert (first.name, second.name) == ("rural/3", "rural/4")
    assert first.driven_m != second.driven_m
    assert first.collisions == second.collisions == 0
