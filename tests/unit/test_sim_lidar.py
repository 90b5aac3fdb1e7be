"""The simulated lidar against geometry: points on the surfaces they come from, at the time they were taken."""

from dataclasses import replace

import numpy as np
import pytest

from perception.core.labels import points_in_box
from perception.core.motion import EgoMotion, MotionSource
from sim.rig import LidarConfig, MountConfig, TimingConfig
from sim.sensors.beams import beam_elevations_rad
from sim.sensors.lidar import LidarSensor, LidarShot
from sim.sensors.raycast import ray_caster_factory
from sim.sensors.scene_caster import SceneCaster
from sim.weather import Weather, WeatherConfig
from tests.unit.sim_fake_scene import FakeScene, Mover, box, ground, join, model

SECOND = 1_000_000_000
CAR = (4.4, 1.8, 1.5)


def config(**changes: object) -> LidarConfig:
    values = {
        "type": "lidar",
        "name": "lidar",
        "mount": MountConfig(x_m=0.9, y_m=0.0, z_m=1.84, yaw_deg=-90.0),
        "timing": TimingConfig(rate_hz=10.0),
        "beams": 32,
        "columns": 720,
        "start_azimuth_deg": -90.0,
        **changes,
    }
    return LidarConfig.model_validate(values)


def weather(kind: str = "clear", **changes: float) -> Weather:
    return WeatherConfig.model_validate({"kind": kind, **changes}).resolve(np.random.default_rng(0))


def shoot(scene: FakeScene, lidar: LidarConfig | None = None, sky: Weather | None = None, seed: int = 0) -> LidarShot:
    sensor = LidarSensor(lidar or config(), SceneCaster(scene, ray_caster_factory("open3d")), sky or weather())
    return sensor.shoot(scene, SECOND, SECOND, np.random.default_rng(seed))


def street(ego: Mover | None = None) -> FakeScene:
    movers = (
        Mover(model="car", x_m=-5.0, y_m=4.0, speed_mps=20.0),
        Mover(model="car", x_m=30.0, y_m=-4.0, yaw_rad=np.pi, speed_mps=15.0, yaw_rate_radps=0.5),
        Mover(model="car", x_m=12.0, y_m=8.0, yaw_rad=1.0),
    )
    return FakeScene(
        scenery=ground(),
        models={"car": model("car", CAR)},
        movers=movers,
        ego=ego or Mover(model="ego", x_m=0.0, y_m=0.0, speed_mps=12.0, yaw_rate_radps=0.4),
    )


def world_points(
    scene: FakeScene, shot: LidarShot, lidar: LidarConfig
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Each point in the world, by the true ego pose at its own time."""
    sweep = shot.sweep
    assert sweep.point_offset_ns is not None
    world = np.empty((len(sweep.points_m), 3))
    for offset in np.unique(sweep.point_offset_ns):
        rows = sweep.point_offset_ns == offset
        pose = scene.ego.pose(sweep.capture_ns + int(offset)) @ lidar.ego_SE3_sensor
        world[rows] = sweep.points_m[rows] @ pose[:3, :3].T + pose[:3, 3]
    return world


@pytest.mark.parametrize(("noise_m", "tolerance_m"), [(0.0, 0.003), (0.02, 0.09)])
def test_points_fall_inside_the_true_box_at_their_own_time(noise_m: float, tolerance_m: float) -> None:
    lidar = config(range_noise_m=noise_m)
    scene = street()
    shot = shoot(scene, lidar)
    world = world_points(scene, shot, lidar)
    for row, mover in enumerate(scene.movers):
        mine = np.flatnonzero((shot.actor_id == 100 + row) & ~shot.is_mixed)
        assert len(mine) > 50
        assert shot.sweep.point_offset_ns is not None
        for i in mine:
            pose = mover.pose(SECOND + int(shot.sweep.point_offset_ns[i]))
            center = pose[:3, :3] @ [0.0, 0.0, CAR[2] / 2] + pose[:3, 3]
            size = np.array(CAR) + 2 * tolerance_m
            assert points_in_box(world[i : i + 1], center, size, pose[:3, :3])[0]


def test_a_fast_car_is_smeared_unless_its_motion_is_known() -> None:
    """The box at the end of the sweep alone misses points: that is why points carry times."""
    lidar = config(range_noise_m=0.0)
    scene = street()
    shot = shoot(scene, lidar)
    mine = (shot.actor_id == 100) & ~shot.is_mixed
    pose = scene.movers[0].pose(SECOND)
    center = pose[:3, :3] @ [0.0, 0.0, CAR[2] / 2] + pose[:3, 3]
    inside = points_in_box(world_points(scene, shot, lidar)[mine], center, np.array(CAR) + 0.01, pose[:3, :3])
    assert inside.mean() < 0.9


def test_deskewing_with_true_motion_sharpens_a_wall_seen_while_turning() -> None:
    wall = box((0.5, 40.0, 6.0), (20.0, 0.0, 3.0), "facade", (200, 200, 200))
    ego = Mover(model="ego", x_m=0.0, y_m=0.0, speed_mps=10.0, yaw_rate_radps=0.6, yaw_rad=-0.6)
    scene = FakeScene(scenery=join([ground(), wall]), ego=ego)
    lidar = config(range_noise_m=0.01)
    sweep = shoot(scene, lidar).sweep
    points_ego = sweep.points_m @ lidar.ego_SE3_sensor[:3, :3].T.astype(np.float32) + lidar.ego_SE3_sensor[:3, 3]
    assert sweep.point_offset_ns is not None
    times = sweep.capture_ns + sweep.point_offset_ns.astype(np.int64)
    knots = np.linspace(SECOND - 100_000_000, SECOND, 11).astype(np.int64)
    reference = np.linalg.inv(ego.pose(SECOND))
    motion = EgoMotion(
        reference_ns=SECOND,
        knots_ns=knots,
        reference_SE3_ego=np.stack([reference @ ego.pose(int(t)) for t in knots]),
        velocity_mps=np.array([10.0, 0.0]),
        yaw_rate_radps=0.6,
        world_SE3_ego=ego.pose(SECOND),
        source=MotionSource.POSES,
    )
    sharp = motion.move_points(points_ego, times)
    pose = ego.pose(SECOND)
    in_world = sharp @ pose[:3, :3].T + pose[:3, 3]
    on_wall = (np.abs(in_world[:, 0] - 19.75) < 0.2) & (in_world[:, 2] > 0.3)
    assert on_wall.sum() > 300

    def residual(points: np.ndarray[tuple[int, int], np.dtype[np.floating]]) -> float:
        centred = points - points.mean(axis=0)
        return float(np.linalg.svd(centred.astype(np.float64), full_matrices=False)[1][-1] / np.sqrt(len(points)))

    assert residual(sharp[on_wall]) < 0.02
    assert residual(points_ego[on_wall]) > 5 * residual(sharp[on_wall])


def test_sweep_turns_clockwise_from_behind_and_ends_at_its_capture_time() -> None:
    wall = box((1.0, 1.0, 1.0), (500.0, 0.0, 0.0), "facade", (1, 1, 1))
    sweep = shoot(FakeScene(scenery=join([ground(), wall]))).sweep
    assert sweep.point_offset_ns is not None
    assert sweep.ring is not None
    assert (np.diff(sweep.point_offset_ns) >= 0).all()
    assert sweep.point_offset_ns.min() < -95_000_000
    assert sweep.point_offset_ns.max() == 0
    ego = sweep.points_m @ config().ego_SE3_sensor[:3, :3].T
    azimuth = np.degrees(np.arctan2(ego[:, 1], ego[:, 0]))
    quarter = np.abs(sweep.point_offset_ns + 75_000_000) < 1_000_000
    assert np.abs(azimuth[quarter] - 90).max() < 5, "a quarter of a turn after the rear comes the left"
    elevation = np.degrees(np.arcsin(sweep.points_m[:, 2] / np.linalg.norm(sweep.points_m, axis=1)))
    np.testing.assert_allclose(elevation, np.degrees(beam_elevations_rad(32))[sweep.ring], atol=0.01)


@pytest.mark.parametrize("beams", [32, 64, 128])
def test_beam_tables_rise(beams: int) -> None:
    table = beam_elevations_rad(beams)
    assert len(table) == beams
    assert (np.diff(table) > 0).all()


def test_glass_is_seen_through() -> None:
    pane = box((0.02, 8.0, 4.0), (8.0, 0.0, 2.0), "glass", (60, 70, 80))
    wall = box((0.5, 8.0, 4.0), (12.0, 0.0, 2.0), "facade", (200, 200, 200))
    sweep = shoot(FakeScene(scenery=join([ground(), pane, wall]))).sweep
    ego = sweep.points_m @ config().ego_SE3_sensor[:3, :3].T + config().ego_SE3_sensor[:3, 3]
    ahead = ego[(np.abs(ego[:, 1]) < 2) & (ego[:, 2] > 0.3) & (ego[:, 0] > 5)]
    assert len(ahead) > 30
    assert np.abs(ahead[:, 0] - 11.75).max() < 0.2


def walls(material: str, distance_m: float) -> FakeScene:
    wall = box((0.5, 20.0, 12.0), (distance_m, 0.0, 6.0), material, (200, 200, 200))
    return FakeScene(scenery=join([ground(), wall]))


def share_seen(scene: FakeScene, distance_m: float, sky: Weather) -> float:
    lidar = config(max_range_m=300.0)
    ego = shoot(scene, lidar, sky).sweep.points_m @ lidar.ego_SE3_sensor[:3, :3].T + lidar.ego_SE3_sensor[:3, 3]
    return float(((np.abs(ego[:, 0] - distance_m) < 0.6) & (ego[:, 2] > 0.2)).sum())


def test_far_and_wet_and_foggy_walls_return_less() -> None:
    near, far = share_seen(walls("facade", 20.0), 20.0, weather()), share_seen(walls("facade", 60.0), 60.0, weather())
    assert near > 2.5 * far > 0, "the same wall spans a third of the angle"
    fog = share_seen(walls("facade", 60.0), 60.0, weather("fog", visibility_m=80.0))
    rain = share_seen(walls("asphalt", 60.0), 60.0, weather("rain", rain_mm_per_h=20.0, visibility_m=1500.0))
    dry = share_seen(walls("asphalt", 60.0), 60.0, weather())
    assert fog < 0.1 * far
    assert rain < dry


def test_fog_throws_back_and_clear_air_does_not() -> None:
    empty = FakeScene(scenery=box((1.0, 1.0, 1.0), (500.0, 0.0, 0.0), "facade", (1, 1, 1)))
    assert len(shoot(empty).sweep.points_m) == 0, "nothing comes back from the sky"
    fog = shoot(empty, sky=weather("fog", visibility_m=60.0))
    distance = np.linalg.norm(fog.sweep.points_m, axis=1)
    assert len(distance) > 100
    assert distance.max() < 12.5
    assert fog.is_mixed.all()


def test_signs_shine() -> None:
    plain, sign = (shoot(walls(material, 15.0)).sweep for material in ("facade", "sign"))
    ahead = [s.intensity[(np.abs(s.points_m[:, 1] - 13.85) < 0.2) & (s.points_m[:, 2] > -1.5)] for s in (plain, sign)]
    assert len(ahead[0]) > 300
    assert np.median(ahead[1]) > 3 * np.median(ahead[0])
    assert ahead[1].max() <= 1.0


def test_mixed_points_hang_behind_edges_only() -> None:
    pole = box((0.3, 0.3, 5.0), (10.0, 0.0, 2.5), "metal", (90, 90, 90))
    wall = box((0.5, 30.0, 8.0), (12.5, 0.0, 4.0), "facade", (200, 200, 200))
    lidar = config(range_noise_m=0.0)
    scene = FakeScene(scenery=join([ground(), pole, wall]))
    hanging = 0
    for seed in range(8):
        shot = shoot(scene, lidar, seed=seed)
        ego = shot.sweep.points_m @ lidar.ego_SE3_sensor[:3, :3].T + lidar.ego_SE3_sensor[:3, 3]
        between = (ego[:, 0] > 10.2) & (ego[:, 0] < 12.2) & (ego[:, 2] > 0.3) & (np.abs(ego[:, 1]) < 1)
        assert shot.is_mixed[between].all()
        hanging += int(between.sum())
    assert 5 < hanging < 60


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    first, second, other = (shoot(street(), seed=seed).sweep for seed in (5, 5, 6))
    assert first.points_m.tobytes() == second.points_m.tobytes()
    assert first.intensity.tobytes() == second.intensity.tobytes()
    assert first.points_m.tobytes() != other.points_m.tobytes()


def test_visibility_counts_what_stands_in_the_way() -> None:
    scene = replace(street(Mover(model="ego", x_m=0.0, y_m=0.0)), movers=(Mover(model="car", x_m=20.0, y_m=0.0),))
    free = shoot(scene)
    wall = box((0.2, 3.0, 1.4), (10.0, 0.0, 0.7), "facade", (200, 200, 200))
    hidden = shoot(replace(scene, scenery=join([ground(), wall])))
    assert free.seen[0] == free.crossed[0] > 0
    assert 0 < hidden.seen[0] < 0.8 * hidden.crossed[0]
