"""Rigs: what ships loads and fits together, what cannot be is refused by name, captures come on time."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from perception.core.errors import ConfigError
from perception.core.messages import CameraFrame, EgoState, LidarSweep, RadarScan
from perception.core.rig import Modality
from sim.rig import CameraConfig, RigSpec, load_rig, without_cameras
from sim.rig_variation import vary_rig
from sim.sensors.schedule import Event, schedule
from sim.sensors.suite import SensorSuite
from sim.weather import Weather, WeatherConfig
from tests.unit.sim_fake_scene import FakeScene, Mover, ground, model

SECOND = 1_000_000_000
OPTICS: dict[str, object] = {"fx": 200.0, "fy": 200.0, "cx": 160.0, "cy": 80.0}
CAMERA: dict[str, object] = {
    "type": "camera",
    "name": "front",
    "mount": {"x_m": 1.7, "y_m": 0.0, "z_m": 1.5},
    "timing": {"rate_hz": 10},
    "width_px": 320,
    "height_px": 160,
    "intrinsics": OPTICS,
}


def write(folder: Path, *sensors: dict[str, object]) -> str:
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump({"sensors": list(sensors)}))
    return str(path)


def clear() -> Weather:
    return WeatherConfig().resolve(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "cameras", "lidars", "radars"),
    [("nuscenes", 6, 1, 5), ("tiny", 6, 1, 5), ("kitti", 2, 1, 0), ("aimotive", 4, 1, 2)],
)
def test_shipped_rigs_load(name: str, cameras: int, lidars: int, radars: int) -> None:
    rig = load_rig(name).sensor_rig
    assert [len(rig.of(modality)) for modality in Modality] == [cameras, lidars, radars]


def test_tiny_has_the_mounts_and_the_view_of_nuscenes() -> None:
    tiny, full = load_rig("tiny"), load_rig("nuscenes")
    for small, large in zip(tiny.sensors, full.sensors, strict=True):
        assert small.name == large.name
        np.testing.assert_array_equal(small.ego_SE3_sensor, large.ego_SE3_sensor)
        if isinstance(small, CameraConfig) and isinstance(large, CameraConfig):
            views = [2 * np.degrees(np.arctan(c.width_px / 2 / c.intrinsics.fx)) for c in (small, large)]
            assert abs(views[0] - views[1]) < 0.1
            assert (small.width_px, small.height_px) == (352, 128)


def test_cameras_look_where_their_names_say() -> None:
    rig = load_rig("nuscenes").sensor_rig
    for name, yaw_deg in (("CAM_FRONT", 0), ("CAM_FRONT_LEFT", 55), ("CAM_BACK_RIGHT", -110), ("CAM_BACK", 180)):
        mount = rig[name].ego_SE3_sensor
        forward, down = mount[:3, 2], mount[:3, 1]
        np.testing.assert_allclose(forward[:2], [np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))], atol=1e-9)
        np.testing.assert_allclose(down, [0, 0, -1], atol=1e-9)


def test_pitch_looks_down_and_roll_turns_about_the_view(tmp_path: Path) -> None:
    tilted = {**CAMERA, "mount": {"x_m": 0, "y_m": 0, "z_m": 1, "yaw_deg": 90, "pitch_deg": 10, "roll_deg": 5}}
    mount = load_rig(write(tmp_path, tilted)).sensor_rig["front"].ego_SE3_sensor
    np.testing.assert_allclose(mount[:3, 2], [0, np.cos(np.radians(10)), -np.sin(np.radians(10))], atol=1e-9)
    assert mount[2, 0] == pytest.approx(-np.sin(np.radians(5)) * np.cos(np.radians(10)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsics": {**OPTICS, "fx": -1.0}}, r"intrinsics\.fx.*greater than 0"),
        ({"intrinsics": {**OPTICS, "cx": 900.0}}, r"cx, cy \(900.0, 80.0\) lie outside"),
        ({"intrinsics": {**OPTICS, "projection": "brown", "distortion": [-4, 0, 0, 0]}}, r"impossible calibration"),
        ({"intrinsics": {**OPTICS, "projection": "brown", "distortion": [1.0]}}, r"brown takes 4 or 5"),
        ({"intrinsics": {**OPTICS, "projection": "orthographic"}}, r"projection.*pinhole.*brown.*mei"),
        ({"mount": {"x_m": 1, "y_m": 0, "z_m": -0.5}}, r"mount\.z_m.*greater than 0"),
        ({"mount": {"x_m": 80, "y_m": 0, "z_m": 1}}, r"mount\.x_m.*less than or equal to 15"),
        ({"timing": {"rate_hz": 10, "jitter_ms": 60}}, r"jitter_ms 60.0 must be at most a quarter of the period, 25"),
        ({"shutter": "global"}, r"shutter: no such field; known here: edge_rays, exposure_ms, height_px"),
        ({"type": "sonar"}, r"sonar.*camera.*lidar.*radar"),
        ({"name": "ego"}, r"the name 'ego' is taken"),
    ],
)
def test_impossible_rigs_are_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rig(write(tmp_path, {**CAMERA, **change}))
    assert "rig.yaml" in str(caught.value)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_doubled_names_and_unknown_rigs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'front' is taken"):
        load_rig(write(tmp_path, CAMERA, CAMERA))
    with pytest.raises(ConfigError, match=r"'tinny'.*kitti.*nuscenes.*tiny"):
        load_rig("tinny")


def rates(events: list[Event], name: str) -> float:
    captures = [event.capture_ns for event in events if event.sensor == name]
    return 1e9 * (len(captures) - 1) / (captures[-1] - captures[0])


def test_schedule_keeps_rates_phases_and_arrival_order() -> None:
    rig = load_rig("nuscenes")
    events = list(schedule(rig, 5 * SECOND, 9 * SECOND, seed=1))
    arrivals = [event.arrival_ns for event in events]
    assert arrivals == sorted(arrivals)
    for sensor in rig.sensors:
        assert rates(events, sensor.name) == pytest.approx(sensor.timing.rate_hz, rel=0.02)
        mine = [event for event in events if event.sensor == sensor.name]
        assert [event.sequence for event in mine] == list(range(len(mine)))
        delays = np.array([event.arrival_ns - event.capture_ns for event in mine]) / 1e6
        assert delays.min() >= sensor.timing.delay_ms
        assert delays.mean() == pytest.approx(sensor.timing.delay_ms + sensor.timing.delay_jitter_ms, rel=0.35)
    assert all(5 * SECOND <= event.capture_ns < 9 * SECOND for event in events)
    first_sweep = min(event.capture_ns for event in events if event.sensor == "LIDAR_TOP")
    assert first_sweep - 50_000_000 >= 5 * SECOND, "the first sweep has been simulated from its beginning"
    assert len({event.sensor for event in events}) == 14, "ego and route come too"


def test_schedule_depends_on_the_seed_alone() -> None:
    rig = load_rig("tiny")
    first, again, other = (list(schedule(rig, 0, SECOND, seed)) for seed in (1, 1, 2))
    assert first == again != other


def small_rig() -> RigSpec:
    tiny = load_rig("tiny")
    keep = {"CAM_FRONT", "CAM_BACK", "LIDAR_TOP", "RADAR_FRONT"}
    return tiny.model_copy(update={"sensors": tuple(s for s in tiny.sensors if s.name in keep)})


def drive() -> FakeScene:
    movers = (Mover(model="car", x_m=15.0, y_m=3.0, speed_mps=5.0),)
    ego = Mover(model="ego", x_m=0.0, y_m=0.0, speed_mps=8.0)
    return FakeScene(scenery=ground(), models={"car": model("car", (4.4, 1.8, 1.5))}, movers=movers, ego=ego)


def test_suite_gives_the_same_bytes_with_any_number_of_threads() -> None:
    rig, scene = small_rig(), drive()
    events = [event for event in schedule(rig, 0, SECOND // 4, seed=3) if event.sensor != "route"]
    runs = []
    for threads in (1, 3):
        with SensorSuite(rig, scene, clear(), seed=3, threads=threads) as suite:
            runs.append(suite.capture_all(events))
    assert {type(message) for message in runs[0]} == {CameraFrame, LidarSweep, RadarScan, EgoState}
    for event, one, other in zip(events, *runs, strict=True):
        assert (one.sensor, one.capture_ns, one.arrival_ns) == (event.sensor, event.capture_ns, event.arrival_ns)
        if isinstance(one, CameraFrame) and isinstance(other, CameraFrame):
            assert one.data == other.data
        elif isinstance(one, LidarSweep | RadarScan) and isinstance(other, LidarSweep | RadarScan):
            assert one.points_m.tobytes() == other.points_m.tobytes()
        elif isinstance(one, EgoState) and isinstance(other, EgoState):
            np.testing.assert_array_equal(one.world_SE3_ego, other.world_SE3_ego)


def test_ego_errors_are_small_and_slow() -> None:
    rig, scene = small_rig(), drive()
    with SensorSuite(rig, scene, clear(), seed=3) as suite:
        states = [
            suite.capture(Event(arrival_ns=t, sensor="ego", sequence=i, capture_ns=t))
            for i, t in enumerate(range(0, SECOND, SECOND // 100))
        ]
    offsets = []
    for state in states:
        assert isinstance(state, EgoState)
        assert state.world_SE3_ego is not None
        assert state.velocity_mps is not None
        offsets.append(state.world_SE3_ego[:3, 3] - scene.ego.pose(state.capture_ns)[:3, 3])
        assert abs(state.velocity_mps[0] - 8.0) < 0.2
    assert 0.001 < np.abs(offsets).max() < 0.3
    assert np.abs(np.diff(offsets, axis=0)).max() < 0.001, "poses close in time agree with each other"


def test_unknown_sensor_lists_the_rig() -> None:
    with (
        SensorSuite(small_rig(), drive(), clear(), seed=0) as suite,
        pytest.raises(ConfigError, match=r"no sensor 'CAM'.*CAM_FRONT"),
    ):
        suite["CAM"]


def test_setting_one_figure_of_the_weather_leaves_the_others() -> None:
    drawn = WeatherConfig(kind="rain").resolve(np.random.default_rng(4))
    fixed = WeatherConfig(kind="rain", rain_mm_per_h=7.0).resolve(np.random.default_rng(4))
    assert fixed.rain_mm_per_h == 7.0
    assert (fixed.visibility_m, fixed.sun_azimuth_rad) == (drawn.visibility_m, drawn.sun_azimuth_rad)


def test_a_thinned_schedule_keeps_all_that_belongs_to_every_nth_turn() -> None:
    rig = load_rig("tiny")
    end = 3 * SECOND + SECOND // 5
    every = list(schedule(rig, 0, end, seed=4))
    thin = list(schedule(rig, 0, end, seed=4, every=5))
    lidar = [event.capture_ns for event in thin if event.sensor == "LIDAR_TOP"]
    assert len(lidar) == 6
    assert [event for event in every if event.sensor in ("ego", "route")] == [
        event for event in thin if event.sensor in ("ego", "route")
    ]
    # What belongs to turns before the first whole sweep and after the last has no lidar beside it.
    whole = range(lidar[0] - SECOND // 10, lidar[-1] + SECOND // 10)
    kept = [event for event in thin if event.sensor not in ("ego", "route") and event.capture_ns in whole]
    assert set(kept) <= set(every)
    for sensor in rig.sensor_rig.sensors:
        near = [min(abs(event.capture_ns - time) for time in lidar) for event in kept if event.sensor == sensor.name]
        assert len(near) == 6
        assert max(near) < 60_000_000


def test_a_rig_without_its_cameras_keeps_the_rest_as_it_was() -> None:
    rig = load_rig("tiny")
    blind = without_cameras(rig)
    assert blind.sensors == tuple(sensor for sensor in rig.sensors if not isinstance(sensor, CameraConfig))
    assert len(blind.sensors) == len(rig.sensors) - 6
    with pytest.raises(ConfigError, match="cameras: false"):
        without_cameras(rig.model_copy(update={"sensors": rig.sensors[1:2]}))


def test_a_varied_rig_is_valid_differs_and_repeats() -> None:
    rig = load_rig("aimotive")
    one, same, other = (vary_rig(rig, 1.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert vary_rig(rig, 0.0, np.random.default_rng(1)) is rig
    for before, after in zip(rig.sensor_rig.sensors, one.sensor_rig.sensors, strict=True):
        assert before.name == after.name
        moved = np.abs(before.ego_SE3_sensor[:3, 3] - after.ego_SE3_sensor[:3, 3])
        assert 0 < moved.max() <= 0.25 + 1e-9
