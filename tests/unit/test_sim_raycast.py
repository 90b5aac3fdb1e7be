"""Ray casting: two Embree bindings agree, and culling by tiles loses and invents nothing."""

from dataclasses import replace

import numpy as np
import pytest

from perception.core.errors import ConfigError
from perception.core.geometry import invert
from sim.sensors.actor_rays import TILE
from sim.sensors.embree import EmbreeCaster, find_library
from sim.sensors.raycast import Open3DCaster, ray_caster_factory
from sim.sensors.scene_caster import Rays, SceneCaster
from sim.sensors.tiles import tile_order
from sim.sensors.tracks import ActorTracks, knots_over
from tests.unit.sim_fake_scene import FakeScene, Mover, box, ground, join, model

SECOND = 1_000_000_000


def crowd(seed: int = 0) -> FakeScene:
    rng = np.random.default_rng(seed)
    movers = tuple(
        Mover(
            model=str(rng.choice(["car", "bus"])),
            x_m=float(rng.uniform(-40, 40)),
            y_m=float(rng.uniform(-40, 40)),
            yaw_rad=float(rng.uniform(-3, 3)),
            speed_mps=float(rng.uniform(0, 20)),
            yaw_rate_radps=float(rng.uniform(-0.6, 0.6)),
        )
        for _ in range(30)
    )
    wall = box((1.0, 60.0, 8.0), (30.0, 0.0, 4.0), "facade", (180, 120, 90))
    models = {"car": model("car", (4.4, 1.8, 1.5)), "bus": model("bus", (12.0, 2.5, 3.1))}
    return FakeScene(scenery=join([ground(), wall]), models=models, movers=movers)


def random_rays(n: int, spread_ns: int, seed: int) -> Rays:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(3, n)) * [[1.0], [1.0], [0.15]]
    direction = direction[:, np.argsort(np.arctan2(direction[1], direction[0]))]
    direction /= np.linalg.norm(direction, axis=0)
    time = np.sort(rng.integers(SECOND, SECOND + spread_ns, n)) if spread_ns else None
    origin = np.array([[0.0], [0.0], [1.8]]) + (0.0 if time is None else rng.normal(0, 0.3, (3, n)) * [[1], [1], [0]])
    return Rays(origin_m=origin, direction=direction.astype(np.float32), time_ns=time)


@pytest.mark.skipif(find_library() is None, reason="Embree's own library is not installed (pip install embreex)")
def test_open3d_and_embree_agree() -> None:
    mesh = crowd().scenery
    rays = random_rays(5000, 0, 1).packed()
    one, other = Open3DCaster(mesh.vertices_m, mesh.triangles), EmbreeCaster(mesh.vertices_m, mesh.triangles)
    (distance_a, triangle_a), (distance_b, triangle_b) = one.nearest(rays), other.nearest(rays)
    np.testing.assert_array_equal(triangle_a >= 0, triangle_b >= 0)
    hit = triangle_a >= 0
    assert 0.3 < hit.mean() < 0.9
    np.testing.assert_allclose(distance_a[hit], distance_b[hit], rtol=1e-5)
    np.testing.assert_array_equal(one.is_blocked(rays), other.is_blocked(rays))


def test_unknown_caster_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'optix'.*embree, open3d"):
        ray_caster_factory("optix")


@pytest.mark.parametrize("spread_ns", [0, 100_000_000])
def test_all_actors_at_once_equal_each_cast_in_its_own_frame(spread_ns: int) -> None:
    """Every ray against every actor's mesh alone, moved by hand to the actor's pose at the ray's own time."""
    scene = crowd()
    rays = random_rays(6000, spread_ns, 2)
    times = np.full(len(rays), SECOND) if rays.time_ns is None else rays.time_ns
    factory = ray_caster_factory("open3d")
    tracks = ActorTracks.sample(scene, knots_over(SECOND, SECOND + spread_ns))
    hits = SceneCaster(scene, factory).cast(rays, tracks, 300.0, counts_hidden=True)

    best, _ = factory(scene.scenery.vertices_m, scene.scenery.triangles).nearest(rays.packed())
    nearest, crossed = np.full(len(rays), -1), []
    best = best.copy()
    for row, mover in enumerate(scene.movers):
        mesh = scene.models[mover.model].phases[0]
        actor_SE3_world = invert(mover.pose(times))
        origin = np.broadcast_to(rays.origin_m, (3, len(rays))).astype(np.float64)
        start = np.einsum("nij,jn->in", actor_SE3_world[:, :3, :3], origin) + actor_SE3_world[:, :3, 3].T
        direction = np.einsum("nij,jn->in", actor_SE3_world[:, :3, :3], rays.direction)
        distance, _ = factory(mesh.vertices_m, mesh.triangles).nearest(
            np.concatenate([start, direction]).T.astype(np.float32)
        )
        crossed.append(np.isfinite(distance).sum())
        nearest = np.where(distance < best, row, nearest)
        best = np.minimum(best, distance)
    differs = hits.actor != nearest
    # Rays that graze an edge may go either way in float32.
    assert differs.mean() < 0.002
    same = ~differs & np.isfinite(best)
    error = np.abs(hits.distance_m[same] - best[same])
    # A ray that grazes a panel turns a tenth of a millimetre of pose into millimetres of range.
    assert np.quantile(error, 0.999) < 2e-3
    assert error.max() < 0.02
    np.testing.assert_allclose(hits.crossed, crossed, atol=3)
    assert (nearest >= 0).sum() > 1000


def test_hits_do_not_depend_on_hidden_rays_being_counted() -> None:
    scene = crowd(3)
    caster = SceneCaster(scene, ray_caster_factory("open3d"))
    tracks = ActorTracks.sample(scene, knots_over(SECOND, SECOND))
    rays = random_rays(4000, 0, 3)
    with_hidden, without = (caster.cast(rays, tracks, 300.0, counts_hidden=flag) for flag in (True, False))
    np.testing.assert_array_equal(with_hidden.distance_m, without.distance_m)
    np.testing.assert_array_equal(with_hidden.actor, without.actor)
    assert with_hidden.crossed.sum() > without.crossed.sum()


def test_surface_of_a_hit_is_the_actors_own() -> None:
    scene = crowd()
    caster = SceneCaster(scene, ray_caster_factory("open3d"))
    hits = caster.cast(random_rays(4000, 0, 4), ActorTracks.sample(scene, knots_over(SECOND, SECOND)), 300.0)
    material = caster.surfaces.material[hits.surface]
    paint = scene.models["car"].phases[0].material[0]
    assert (material[hits.actor >= 0] == paint).all()
    assert not (material[(hits.actor < 0) & hits.is_hit] == paint).any()


def test_shadow_rays_see_actors_and_scenery() -> None:
    scene = replace(crowd(), movers=(Mover(model="car", x_m=10.0, y_m=0.0),))
    caster = SceneCaster(scene, ray_caster_factory("open3d"))
    tracks = ActorTracks.sample(scene, knots_over(0, 0))
    up = np.repeat([[0.0], [0.0], [1.0]], 3, axis=1).astype(np.float32)
    points = np.array([[10.0, 20.0, 30.0], [0.0, 0.0, 0.0], [0.01, 0.01, 0.01]])
    assert caster.is_blocked(Rays(origin_m=points, direction=up), tracks, 100.0).tolist() == [True, False, True]
    near = caster.is_blocked(Rays(origin_m=points, direction=up), tracks, 100.0, within_m=3.0)
    assert near.tolist() == [True, False, False], "the wall's top is 8 m up"


def test_tile_order_keeps_blocks_of_four_together() -> None:
    row, column = (grid.ravel() for grid in np.mgrid[:32, :48])
    order = tile_order(row, column)
    assert sorted(order) == list(range(32 * 48))
    tiles = order.reshape(-1, TILE)
    for values in (row, column):
        assert (np.ptp(values[tiles], axis=1) == 3).all()
