"""Lamps at night: street lamps are found in the scenery, light the road below them, and glow; beams are cut off."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from sim.actors.pool import build_pool
from sim.maps.catalog import load_map
from sim.maps.relief import relief_of
from sim.rig import CameraConfig, IntrinsicsConfig, MountConfig, TimingConfig
from sim.scenery.grow import grow
from sim.sensors.camera import CameraSensor
from sim.sensors.lamps import Lamps, street_lamps
from sim.sensors.raycast import ray_caster_factory
from sim.sensors.render import Renderer
from sim.sensors.scene_caster import SceneCaster
from sim.settings import WorldSettings
from sim.weather import WeatherConfig
from tests.unit.sim_fake_scene import FakeScene, box, ground, join

F32 = NDArray[np.float32]
HEAD_M = 6.64


def _lamps(*street_m: tuple[float, float, float], beams: int = 0) -> Lamps:
    """Street lamps, and headlamps at 0.7 m that shine along x."""
    return Lamps(
        beam_m=np.tile(np.array([[0.0], [0.0], [0.7]], dtype=np.float32), (1, beams)),
        beam_direction=np.tile(np.array([[1.0], [0.0], [0.0]], dtype=np.float32), (1, beams)),
        street_m=np.array(street_m, dtype=np.float32).reshape(-1, 3).T,
    )


def _cast(
    lamps: Lamps, points: list[tuple[float, float, float]], normal: tuple[float, float, float], gain: float
) -> F32:
    """Light (3, N) on surfaces that face `normal`."""
    light = np.zeros((3, len(points)), dtype=np.float32)
    position = np.array(points, dtype=np.float32).T
    lamps.add_to(
        light,
        position,
        np.tile(np.array(normal, dtype=np.float32)[:, None], (1, len(points))),
        np.full(len(points), gain, dtype=np.float32),
    )
    return light


@pytest.mark.parametrize("name", ["town_grid", "old_town"])
def test_each_lamp_post_is_one_lamp_at_the_height_of_its_head(name: str) -> None:
    net = load_map(name)
    relief = relief_of(net)
    lamps = street_lamps(grow(net, relief, build_pool(3), WorldSettings(map=name, seed=3)).mesh)
    assert len(lamps) > 80
    assert pdist(lamps).min() > 5.0
    above = lamps[:, 2] - relief.at(lamps[:, :2])
    assert np.all(np.abs(above - HEAD_M - 0.12) < 0.2)


def test_country_roads_have_no_lamps() -> None:
    net = load_map("rural")
    mesh = grow(net, relief_of(net), build_pool(3), WorldSettings(map="rural", seed=3)).mesh
    assert street_lamps(mesh).shape == (0, 3)


def test_a_street_lamp_lights_what_lies_below_and_faces_it() -> None:
    lamps = _lamps((0.0, 0.0, 6.0))
    up = _cast(lamps, [(0, 0, 0), (6, 0, 0), (12, 0, 0), (31, 0, 0), (0, 0, 7)], (0, 0, 1), 1.0)
    assert np.all(np.diff(up[2]) <= 0)
    assert up[2, 0] == pytest.approx(20.0 * 36.0 / 6.5**4, rel=1e-5)
    assert up[2, 2] > 0
    assert not up[:, 3:].any()
    assert not _cast(lamps, [(0, 0, 0)], (0, 0, -1), 1.0).any()
    assert up[2, 0] > up[0, 0], "street lamps are warm"
    np.testing.assert_allclose(_cast(_lamps((0, 0, 6), (0, 0, 6)), [(3, 1, 0)], (0, 0, 1), 1.0),
                               2 * _cast(lamps, [(3, 1, 0)], (0, 0, 1), 1.0), rtol=1e-5)  # fmt: skip


def test_dipped_beams_light_the_road_ahead_and_dazzle_nobody_above() -> None:
    wall = _cast(
        _lamps(beams=1), [(20, 0, 0.3), (20, 0, 2.0), (20, 12, 0.3), (-5, 0, 0.3), (70, 0, 0.3)], (-1, 0, 0), 1.0
    )
    below, above, aside, behind, far = wall[1]
    assert below > 5 * above > 0
    assert below > 5 * aside > 0
    assert behind == far == 0.0
    assert _cast(_lamps(beams=1), [(20, 0, 0.3)], (-1, 0, 0), 6.0)[1, 0] == pytest.approx(6 * below, rel=1e-5)


def _image(scene: FakeScene, kind: str) -> NDArray[np.uint8]:
    camera = CameraConfig(
        type="camera",
        name="camera",
        mount=MountConfig(x_m=0.0, y_m=0.0, z_m=1.5, pitch_deg=-8.0),
        timing=TimingConfig(rate_hz=10.0),
        width_px=160,
        height_px=120,
        intrinsics=IntrinsicsConfig(fx=110.0, fy=110.0, cx=80.0, cy=60.0),
    )
    weather = WeatherConfig.model_validate({"kind": kind, "visibility_m": 5000}).resolve(np.random.default_rng(0))
    renderer = Renderer(scene, SceneCaster(scene, ray_caster_factory("open3d")), weather, 0)
    sensor = CameraSensor(camera, renderer, np.random.default_rng(0))
    return sensor.shoot(scene, 0, np.random.default_rng(0)).image


def _hung(material: str) -> FakeScene:
    """A pane six metres above the road ahead."""
    return FakeScene(scenery=join([ground(), box((1.2, 1.2, 0.3), (22.0, 0.0, 6.0), material, (255, 214, 150))]))


def test_a_street_lamp_glows_at_night_and_lights_the_road_in_the_picture() -> None:
    lit, unlit = (_image(_hung(material), "night").astype(int) for material in ("lamp_yellow", "plastic"))
    day = _image(_hung("lamp_yellow"), "clear").astype(int)
    row, column = np.unravel_index(np.argmax((lit - unlit).sum(axis=2)[:60]), (60, 160))
    assert lit[row, column].min() > 150
    assert unlit[row, column].max() < 100
    # The road 22 m ahead lies 1.5 m below the camera, which looks up by 8 degrees.
    road = slice(80, 84), slice(70, 90)
    assert lit[road].mean() > 1.3 * unlit[road].mean()
    assert day[road].mean() > lit[road].mean()
