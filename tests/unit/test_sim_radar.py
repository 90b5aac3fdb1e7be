"""The simulated radar against geometry: range rates, ranges, what it tells apart and what it misses."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.geometry import invert, transform_points
from perception.core.messages import RadarScan
from sim.rig import MountConfig, RadarConfig, TimingConfig
from sim.sensors.radar import RadarSensor
from sim.sensors.raycast import ray_caster_factory
from sim.sensors.scene_caster import SceneCaster
from tests.unit.sim_fake_scene import FakeScene, Mover, box, ground, join, model

SECOND = 1_000_000_000


def config(**changes: object) -> RadarConfig:
    return RadarConfig.model_validate(
        {
            "type": "radar",
            "name": "radar",
            "mount": MountConfig(x_m=3.4, y_m=0.6, z_m=0.5, yaw_deg=20.0),
            "timing": TimingConfig(rate_hz=13.0),
            "clutter_per_scan": 0.0,
            "ghost_share": 0.0,
            "miss_share": 0.0,
            **changes,
        }
    )


def scan(scene: FakeScene, radar: RadarConfig, seed: int = 0) -> RadarScan:
    sensor = RadarSensor(radar, SceneCaster(scene, ray_caster_factory("open3d")))
    return sensor.capture(scene, SECOND, SECOND, np.random.default_rng(seed))


def one_car(rcs_dbsm: float = 12.0, **mover: float) -> FakeScene:
    start = Mover(model="car", **{"x_m": 30.0, "y_m": 8.0, **mover})
    return FakeScene(
        scenery=ground(),
        models={"car": model("car", (4.4, 1.8, 1.5), rcs_dbsm=rcs_dbsm)},
        movers=(start,),
        ego=Mover(model="ego", x_m=0.0, y_m=0.0, speed_mps=14.0, yaw_rate_radps=0.3),
    )


def on_car(scene: FakeScene, radar: RadarConfig, result: RadarScan) -> NDArray[np.bool_]:
    """Returns (N,) within a metre of the car, seen from above."""
    world = scene.ego.pose(SECOND) @ radar.ego_SE3_sensor
    local = transform_points(invert(scene.movers[0].pose(SECOND)) @ world, result.points_m.astype(np.float64))
    near: NDArray[np.bool_] = (np.abs(local[:, 0]) < 3.4) & (np.abs(local[:, 1]) < 2.2)
    return near


@pytest.mark.parametrize(("speed", "yaw"), [(0.0, 0.0), (18.0, 0.4), (25.0, np.pi)])
def test_range_rate_equals_the_change_of_distance(speed: float, yaw: float) -> None:
    """Range rates against the distance to the car's centre a hundredth of a second before and after."""
    radar = config()
    scene = one_car(x_m=40.0 - speed * np.cos(yaw), y_m=12.0 - speed * np.sin(yaw), yaw_rad=yaw, speed_mps=speed)
    raw: list[float] = []
    over_ground: list[float] = []
    for seed in range(20):
        result = scan(scene, radar, seed)
        mine = on_car(scene, radar, result)
        assert result.compensated_mps is not None
        raw.extend(result.radial_mps[mine])
        over_ground.extend(result.compensated_mps[mine])

    def distance(time_ns: int, at_ego_ns: int) -> float:
        own = (scene.ego.pose(at_ego_ns) @ radar.ego_SE3_sensor)[:3, 3]
        return float(np.linalg.norm(scene.movers[0].pose(time_ns)[:2, 3] - own[:2]))

    step = 10_000_000
    rate = (distance(SECOND + step, SECOND + step) - distance(SECOND - step, SECOND - step)) / 0.02
    rate_over_ground = (distance(SECOND + step, SECOND) - distance(SECOND - step, SECOND)) / 0.02
    assert len(raw) > 20
    # Points of the hull lie a few degrees from the centre: at 25 m/s that is worth half a metre a second.
    assert abs(np.median(raw) - rate) < 0.5
    assert abs(np.median(over_ground) - rate_over_ground) < 0.5
    assert np.std(np.array(raw) - np.array(over_ground)) < 0.6, "they differ by the ego's own motion alone"


def test_standing_scenery_shows_the_ego_motion_and_none_over_ground() -> None:
    wall = box((0.5, 30.0, 5.0), (40.0, 5.0, 2.5), "metal", (120, 120, 120))
    scene = FakeScene(scenery=join([ground(), wall]), ego=Mover(model="ego", x_m=0.0, y_m=0.0, speed_mps=14.0))
    radar = config(mount=MountConfig(x_m=3.4, y_m=0.0, z_m=0.5))
    result = scan(scene, radar)
    ahead = np.abs(np.arctan2(result.points_m[:, 1], result.points_m[:, 0])) < 0.2
    assert ahead.sum() >= 3
    assert result.compensated_mps is not None
    assert np.abs(result.compensated_mps).max() < 5 * radar.speed_noise_mps
    np.testing.assert_allclose(result.radial_mps[ahead], -14.0, atol=0.5)
    assert np.abs(result.points_m[ahead, 0] - (39.75 - 14.0 - 3.4)).max() < 1.0


def test_points_lie_in_the_plane_unless_the_radar_measures_elevation() -> None:
    scene = one_car()
    assert (scan(scene, config()).points_m[:, 2] == 0).all()
    raised = scan(scene, config(has_elevation=True))
    assert np.abs(raised.points_m[:, 2]).max() > 0.05


def test_a_radar_that_does_not_compensate_says_so() -> None:
    assert scan(one_car(), config(compensates=False)).compensated_mps is None


def count(scene: FakeScene, radar: RadarConfig, scans: int = 20) -> int:
    return sum(int(on_car(scene, radar, scan(scene, radar, seed)).sum()) for seed in range(scans))


def test_weak_far_and_hidden_targets_return_less() -> None:
    radar = config()
    near = count(one_car(x_m=40.0), radar)
    assert near > 20
    assert count(one_car(x_m=230.0), radar) < 0.3 * near
    assert count(one_car(rcs_dbsm=-12.0, x_m=60.0), radar) < 0.3 * count(one_car(x_m=60.0), radar)
    wall = box((0.5, 12.0, 4.0), (26.0, 6.0, 2.0), "concrete", (150, 150, 150))
    hidden = replace(one_car(x_m=40.0), scenery=join([ground(), wall]))
    assert 0 < count(hidden, radar) < 0.5 * near, "some waves pass beneath"


def test_coarse_cells_merge_neighbours() -> None:
    scene = one_car(x_m=34.0)
    fine, coarse = config(range_cell_m=0.2, azimuth_cell_deg=0.3), config(range_cell_m=8.0, azimuth_cell_deg=15.0)
    assert count(scene, coarse) < 0.5 * count(scene, fine)


def test_field_of_view_and_range_bound_what_is_reported() -> None:
    radar = config(field_of_view_deg=60.0, max_range_m=80.0, clutter_per_scan=40.0, azimuth_noise_deg=0.0)
    result = scan(one_car(), radar)
    azimuth = np.degrees(np.arctan2(result.points_m[:, 1], result.points_m[:, 0]))
    assert len(azimuth) > 10
    assert np.abs(azimuth).max() < 30.5
    assert np.linalg.norm(result.points_m, axis=1).max() < 81.0


def test_clutter_is_mostly_flagged_and_truth_is_not() -> None:
    clutter = scan(FakeScene(scenery=ground()), config(clutter_per_scan=90.0))
    assert 0.1 < clutter.is_valid.mean() < 0.5
    radar = config()
    truth = [scan(one_car(), radar, seed).is_valid.mean() for seed in range(10)]
    assert np.mean(truth) > 0.9


def test_ghosts_appear_at_twice_the_range() -> None:
    radar = config(ghost_share=1.0)
    scene = one_car(x_m=25.0, y_m=4.0)
    doubled = 0
    for seed in range(20):
        result = scan(scene, radar, seed)
        world = scene.ego.pose(SECOND) @ radar.ego_SE3_sensor
        goal = transform_points(invert(world), scene.movers[0].pose(SECOND)[:3, 3][None])[0]
        doubled += int((np.linalg.norm(result.points_m[:, :2] - 2 * goal[:2], axis=1) < 6).sum())
    assert doubled > 5


def test_never_more_returns_than_the_sensor_reports() -> None:
    result = scan(one_car(), config(clutter_per_scan=100.0, max_returns=12))
    assert len(result.points_m) == 12
    assert (np.diff(result.rcs_dbsm) <= 0).all()


def test_same_seed_same_bytes() -> None:
    radar = config(clutter_per_scan=5.0, ghost_share=0.3)
    first, second, other = (scan(one_car(), radar, seed) for seed in (3, 3, 4))
    assert first.points_m.tobytes() == second.points_m.tobytes()
    assert first.points_m.tobytes() != other.points_m.tobytes()
