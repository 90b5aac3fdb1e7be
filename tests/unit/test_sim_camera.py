"""The simulated camera against geometry: what is drawn where, at which time, and the same again."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.cameras import Projection
from perception.core.geometry import invert, transform_points
from sim.rig import CameraConfig, IntrinsicsConfig, MountConfig, TimingConfig
from sim.scene import EgoPose
from sim.sensors.camera import CameraSensor, CameraShot
from sim.sensors.raycast import ray_caster_factory
from sim.sensors.render import Renderer
from sim.sensors.scene_caster import SceneCaster
from sim.weather import Weather, WeatherConfig
from tests.unit.sim_fake_scene import FakeScene, Mover, box, ground, join, model

SECOND = 1_000_000_000
CAR = (4.4, 1.8, 1.5)
PINHOLE = IntrinsicsConfig(fx=277.0, fy=277.0, cx=176.0, cy=50.0)
BROWN = IntrinsicsConfig(
    fx=277.0, fy=277.0, cx=176.0, cy=50.0, projection=Projection.BROWN, distortion=(-0.3, 0.1, 0.001, -0.001, -0.01)
)
MEI = IntrinsicsConfig(
    fx=210.0, fy=210.0, cx=176.0, cy=64.0, projection=Projection.MEI, distortion=(-0.04, 0.01, 0.0, 0.0), xi=1.5
)
FISHEYE = IntrinsicsConfig(
    fx=120.0, fy=120.0, cx=176.0, cy=64.0, projection=Projection.KANNALA_BRANDT, distortion=(0.02, -0.005, 0.0, 0.0)
)


def config(intrinsics: IntrinsicsConfig = PINHOLE, **changes: float) -> CameraConfig:
    return CameraConfig.model_validate(
        {
            "type": "camera",
            "name": "camera",
            "mount": MountConfig(x_m=1.5, y_m=0.0, z_m=1.5),
            "timing": TimingConfig(rate_hz=10.0),
            "width_px": 352,
            "height_px": 128,
            "intrinsics": intrinsics,
            **changes,
        }
    )


def weather(kind: str = "clear", **changes: float) -> Weather:
    return WeatherConfig.model_validate({"kind": kind, **changes}).resolve(np.random.default_rng(0))


def shoot(scene: FakeScene, camera: CameraConfig, sky: Weather | None = None, seed: int = 0) -> CameraShot:
    renderer = Renderer(scene, SceneCaster(scene, ray_caster_factory("open3d")), sky or weather(), 0)
    sensor = CameraSensor(camera, renderer, np.random.default_rng(0))
    return sensor.shoot(scene, SECOND, np.random.default_rng(seed))


def street(**ego: float) -> FakeScene:
    movers = (
        Mover(model="car", x_m=9.0, y_m=-2.0, yaw_rad=0.2, speed_mps=10.0),
        Mover(model="car", x_m=26.0, y_m=-6.0, yaw_rad=2.0),
    )
    start = Mover(model="ego", x_m=0.0, y_m=0.0, **ego)
    return FakeScene(scenery=ground(), models={"car": model("car", CAR)}, movers=movers, ego=start)


def camera_SE3_world(ego: EgoPose, camera: CameraConfig) -> NDArray[np.float64]:
    return invert(ego.world_SE3_ego @ camera.ego_SE3_sensor)


def surface_points(pose: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Points (N, 3) spread over the car's box, in the world."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (n, 3))
    side = rng.integers(3, size=n)
    points[np.arange(n), side] = np.sign(points[np.arange(n), side]) * 0.5
    world: NDArray[np.float64] = transform_points(pose, points * CAR + [0.0, 0.0, CAR[2] / 2])
    return world


@pytest.mark.parametrize("intrinsics", [PINHOLE, BROWN, MEI, FISHEYE], ids=lambda i: str(i.projection))
@pytest.mark.parametrize("row", [0, 1])
def test_box_projects_onto_the_pixels_that_show_it(intrinsics: IntrinsicsConfig, row: int) -> None:
    """The hull of what the box's surface projects to and the rendered silhouette have the same bounds to a pixel."""
    camera = config(intrinsics)
    scene = street(speed_mps=8.0, yaw_rate_radps=0.2, yaw_rad=-0.2)
    shot = shoot(scene, camera)
    to_camera = camera_SE3_world(scene.ego_at(SECOND), camera)
    pixels, is_visible = camera.camera.project(
        transform_points(to_camera, surface_points(scene.movers[row].pose(SECOND), 20_000))
    )
    v, u = np.nonzero(shot.actor == row)
    assert len(u) > 100
    for drawn, projected in ((u, pixels[is_visible, 0]), (v, pixels[is_visible, 1])):
        assert abs(drawn.min() - projected.min()) < 1.6
        assert abs(drawn.max() - projected.max()) < 1.6


def test_depth_is_the_distance_of_the_geometry() -> None:
    """Every pixel's ray times its depth lies on the ground or on the box that the pixel claims to show."""
    camera = config()
    scene = street()
    shot = shoot(scene, camera)
    v, u = np.nonzero(np.isfinite(shot.depth_m))
    rays = camera.camera.rays(np.stack([u, v], axis=1))
    world_SE3_camera = invert(camera_SE3_world(scene.ego_at(SECOND), camera))
    world = transform_points(world_SE3_camera, rays * shot.depth_m[v, u][:, None])
    actor = shot.actor[v, u]
    assert np.abs(world[actor < 0, 2]).max() < 0.01
    local = transform_points(invert(scene.movers[0].pose(SECOND)), world[actor == 0]) - [0, 0, CAR[2] / 2]
    outside = np.abs(local) - np.array(CAR) / 2
    assert np.abs(outside.max(axis=1)).max() < 0.01


def test_a_rolling_shutter_shows_each_row_at_its_own_time() -> None:
    camera = config(readout_ms=60.0)
    scene = street(speed_mps=8.0, yaw_rate_radps=0.8, yaw_rad=-0.8)
    shot = shoot(scene, camera)
    to_rows = (np.arange(128) + 0.5) / 128 - 0.5
    for row in (60, 72):
        time_ns = SECOND + round(to_rows[row] * 60e6)
        to_camera = camera_SE3_world(scene.ego_at(time_ns), camera)
        pose = scene.movers[0].pose(time_ns)
        pixels, is_visible = camera.camera.project(transform_points(to_camera, surface_points(pose, 60_000)))
        in_row = is_visible & (np.abs(pixels[:, 1] - row) < 0.5)
        drawn = np.flatnonzero(shot.actor[row] == 0)
        assert abs(drawn.min() - pixels[in_row, 0].min()) < 1.6
        assert abs(drawn.max() - pixels[in_row, 0].max()) < 1.6


def test_shadow_lies_opposite_the_sun() -> None:
    scene = FakeScene(scenery=join([ground(), box((0.8, 0.8, 3.0), (14.0, 0.0, 1.5), "facade", (200, 200, 200))]))
    camera = config()
    dark = []
    for azimuth in (90.0, -90.0):
        sky = weather(sun_azimuth_deg=azimuth, sun_elevation_deg=45.0, cloud_cover=0.0)
        image = shoot(scene, camera, sky).image.mean(axis=2)
        world = np.array([[14.0, y, 0.0] for y in (-2.0, 2.0)])
        pixels, _ = camera.camera.project(transform_points(camera_SE3_world(scene.ego_at(SECOND), camera), world))
        at = np.round(pixels).astype(int)
        dark.append([image[v - 1 : v + 2, u - 1 : u + 2].mean() for u, v in at])
    assert dark[0][0] < 0.75 * dark[0][1], "the sun in the north casts shadows to the south"
    assert dark[1][1] < 0.75 * dark[1][0]


def test_actor_shadow_moves_with_the_actor() -> None:
    scene = replace(street(), movers=(Mover(model="car", x_m=12.0, y_m=0.0),))
    sky = weather(sun_azimuth_deg=90.0, sun_elevation_deg=50.0, cloud_cover=0.0)
    image = shoot(scene, config(), sky).image.mean(axis=2)
    away = shoot(replace(scene, movers=(Mover(model="car", x_m=12.0, y_m=30.0),)), config(), sky).image.mean(axis=2)
    pixel, _ = config().camera.project(
        transform_points(camera_SE3_world(scene.ego_at(SECOND), config()), np.array([[12.0, -1.5, 0.0]]))
    )
    u, v = np.round(pixel[0]).astype(int)
    assert image[v, u] < 0.75 * away[v, u]


def test_weather_changes_the_light() -> None:
    scene = street()
    means = {kind: float(shoot(scene, config(), weather(kind)).image.mean()) for kind in ("clear", "night")}
    assert means["night"] < 0.6 * means["clear"]
    thick = shoot(scene, config(), weather("fog", visibility_m=60.0)).image
    assert thick.std() < 0.6 * shoot(scene, config(), weather("clear")).image.std()


def test_a_lit_signal_lamp_is_the_brightest_of_its_colour() -> None:
    lamp = model("lamp", (0.3, 0.3, 0.3), [box((0.3, 0.3, 0.3), (0, 0, 2.0), "lamp_red", (200, 20, 20))])
    scene = FakeScene(scenery=ground(), models={"lamp": lamp}, movers=(Mover(model="lamp", x_m=12.0, y_m=0.0),))
    off = shoot(scene, config())
    on = shoot(replace(scene, lamps={100: "lamp_red"}), config())
    other = shoot(replace(scene, lamps={100: "lamp_green"}), config())
    red = [float(shot.image[shot.actor == 0][:, 2].mean()) for shot in (off, on, other)]
    assert red[1] > red[0] + 40
    assert abs(red[2] - red[0]) < 8


def test_motion_blur_smears_what_moves_and_nothing_else() -> None:
    scene = street()
    sharp, blurred = shoot(scene, config()), shoot(scene, config(exposure_ms=60.0))
    change = np.abs(sharp.image.astype(int) - blurred.image.astype(int)).mean(axis=2)
    rim = cv2.dilate((sharp.actor == 0).astype(np.uint8), np.ones((5, 5))) > 0
    still = sharp.actor == 1
    assert change[rim].mean() > 3 * change[still].mean()


def test_jpeg_is_what_was_shot_and_the_same_again() -> None:
    scene, camera = street(speed_mps=5.0), config()
    renderer = Renderer(scene, SceneCaster(scene, ray_caster_factory("open3d")), weather(), 0)
    sensor = CameraSensor(camera, renderer, np.random.default_rng(0))
    frames = [sensor.capture(scene, SECOND, SECOND + 5, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert frames[0].data == frames[1].data != frames[2].data
    image = cv2.imdecode(np.frombuffer(frames[0].data, np.uint8), cv2.IMREAD_COLOR)
    shot = sensor.shoot(scene, SECOND, np.random.default_rng(1))
    assert image is not None
    assert image.shape == (128, 352, 3)
    assert np.abs(image.astype(int) - shot.image.astype(int)).mean() < 4
