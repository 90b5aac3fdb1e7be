"""Scenery: one mesh from one seed, the right way up, nothing on the road that does not belong there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.core.taxonomy import ATTRIBUTE_INDEX
from sim.actors.pool import Pool, build_pool
from sim.maps.area import AreaGrid, drivable_grid
from sim.maps.catalog import load_map
from sim.maps.lines import at_arc
from sim.maps.net import LaneKind, RoadMap
from sim.maps.relief import relief_of
from sim.scene import MATERIAL_INDEX
from sim.scenery.grow import Scenery, grow
from sim.scenery.patches import counter_clockwise, ear_clip
from sim.scenery.plots import plots_of
from sim.settings import ScenerySettings, TrafficSettings, WorldSettings

SETTINGS = WorldSettings(map="town_grid", seed=3)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool(3)


@pytest.fixture(scope="module")
def net() -> RoadMap:
    return load_map("town_grid")


@pytest.fixture(scope="module")
def road(net: RoadMap) -> AreaGrid:
    return drivable_grid(net)


@pytest.fixture(scope="module")
def scenery(net: RoadMap, pool: Pool) -> Scenery:
    return grow(net, relief_of(net), pool, SETTINGS)


def _of(scenery: Scenery, material: str) -> NDArray[np.float64]:
    """Corners (T, 3, 3) of the triangles of a material."""
    mesh = scenery.mesh
    corners: NDArray[np.float64] = mesh.vertices_m[mesh.triangles[mesh.material == MATERIAL_INDEX[material]]].astype(
        float
    )
    return corners


def test_equal_settings_grow_equal_bytes_and_other_seeds_other_towns(
    net: RoadMap, pool: Pool, scenery: Scenery
) -> None:
    again = grow(net, relief_of(net), pool, SETTINGS)
    assert scenery.mesh.vertices_m.tobytes() == again.mesh.vertices_m.tobytes()
    assert scenery.mesh.color_rgb.tobytes() == again.mesh.color_rgb.tobytes()
    assert scenery.standing == again.standing
    other = grow(net, relief_of(net), pool, SETTINGS.model_copy(update={"seed": 4}))
    assert other.standing != scenery.standing


@pytest.mark.parametrize("name", ["motorway", "ring_town", "rural"])
def test_the_largest_maps_stay_moderate(name: str, pool: Pool) -> None:
    net = load_map(name)
    grown = grow(net, relief_of(net), pool, WorldSettings(map=name, seed=3))
    assert 20_000 < len(grown.mesh.triangles) < 300_000
    assert np.isfinite(grown.mesh.vertices_m).all()
    assert grown.mesh.triangles.max() < len(grown.mesh.vertices_m)


def test_what_lies_on_the_ground_faces_up(scenery: Scenery) -> None:
    for material in ("asphalt", "marking", "grass", "pavement", "soil"):
        corners = _of(scenery, material)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(normal, axis=1)
        assert len(corners) > 0
        up = normal[area > 1e-3, 2] / area[area > 1e-3]
        assert np.quantile(up, 0.002) > 0.99, material


def test_roads_are_covered_and_marked(net: RoadMap, scenery: Scenery, road: AreaGrid) -> None:
    asphalt = _of(scenery, "asphalt")
    area = np.cross(asphalt[:, 1] - asphalt[:, 0], asphalt[:, 2] - asphalt[:, 0])[:, 2].sum() / 2
    lanes = (LaneKind.DRIVE, LaneKind.CLOSED)
    expected = sum(lane.length_m * lane.width_m for lane in net.lanes.values() if lane.kind in lanes)
    assert area > expected
    marks = _of(scenery, "marking").mean(axis=1)
    assert road.contains(marks).mean() > 0.97
    assert np.allclose(marks[:, 2], 0.008, atol=1e-3)
    for lane in net.lanes.values():
        if lane.kind is LaneKind.CROSSING:
            middle = at_arc(lane.shape_m, np.array([lane.length_m / 2]))[0, :2]
            assert np.linalg.norm(marks[:, :2] - middle, axis=1).min() < 1.5, lane.name


def test_houses_and_trees_stay_off_the_road(scenery: Scenery, road: AreaGrid) -> None:
    assert len(_of(scenery, "facade")) > 1000
    assert len(_of(scenery, "window")) > 1000
    assert not road.contains(_of(scenery, "facade").reshape(-1, 3)).any()
    assert not road.contains(_of(scenery, "bark").reshape(-1, 3)).any()
    # Posts of lights and lamps stand on the pavement; their arms may reach over the lanes.
    metal = _of(scenery, "metal").reshape(-1, 3)
    assert road.contains(metal[metal[:, 2] < 2.0]).mean() < 0.01


def test_kerbs_are_as_high_as_pavements(scenery: Scenery) -> None:
    assert np.allclose(_of(scenery, "pavement")[..., 2].max(), 0.12, atol=0.001)
    assert 0.12 <= _of(scenery, "kerb")[..., 2].max() < 0.13


def test_parked_cars_stand_in_parking_strips(net: RoadMap, scenery: Scenery, pool: Pool) -> None:
    strips = np.concatenate(
        [
            at_arc(lane.shape_m, np.arange(0, lane.length_m, 0.5))[:, :2]
            for lane in net.lanes.values()
            if lane.kind is LaneKind.CLOSED
        ]
    )
    parked = [item for item in scenery.standing if item.attribute == ATTRIBUTE_INDEX["vehicle.parked"]]
    assert len(parked) > 60
    for item in parked:
        assert np.linalg.norm(strips - item.foot_m[:2], axis=1).min() < 0.5
    corners = [_corners(item.model, item.foot_m, item.yaw_rad, pool) for item in parked]
    middles = np.array([item.foot_m[:2] for item in parked])
    for k, one in enumerate(corners):
        near = np.flatnonzero(np.linalg.norm(middles - middles[k], axis=1) < 6)
        assert all(k == other or _apart(one, corners[other]) for other in near.tolist()), "two cars in one place"


def test_work_zones_have_cones_barriers_and_machines(scenery: Scenery, pool: Pool) -> None:
    kinds = [pool.actors[item.model].kind for item in scenery.standing]
    assert kinds.count("cone") >= 10
    assert {"board", "dumper"} <= set(kinds) or {"jersey"} <= set(kinds)
    assert {"excavator", "loader", "dumper"} & set(kinds)


def test_every_approach_with_a_light_has_a_head_that_faces_it(net: RoadMap, scenery: Scenery) -> None:
    heads = [item for item in scenery.standing if item.signal is not None]
    approaches = {connection.from_edge for connection in net.connections if connection.signal is not None}
    assert len(heads) >= len(approaches) > 0
    for name in approaches:
        edge = net.edges[name]
        end, before = edge.lanes[0].shape_m[-1, :2], edge.lanes[0].shape_m[-2, :2]
        course = np.arctan2(*(end - before)[::-1])
        near = [head for head in heads if np.linalg.norm(np.array(head.foot_m[:2]) - end) < 12]
        assert any(np.cos(head.yaw_rad - course) < -0.99 for head in near), name


def test_switches_leave_things_out(net: RoadMap, pool: Pool) -> None:
    bare = SETTINGS.model_copy(
        update={
            "scenery": ScenerySettings(buildings=False, trees_per_km=0.0, work_zones=0),
            "traffic": TrafficSettings(parked_share=0.0),
        }
    )
    grown = grow(net, relief_of(net), pool, bare)
    assert not len(_of(grown, "facade"))
    assert not len(_of(grown, "foliage"))
    assert all(item.signal is not None for item in grown.standing)


def test_plots_are_taken_once() -> None:
    plots = plots_of(load_map("rural"))
    corner = plots.origin_m + 30.0
    square = corner + np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    assert plots.take(square)
    assert not plots.take(square + 5.0)
    assert plots.take(square + 40.0)
    assert not plots.take(square - 1000.0), "outside the grid"


@given(st.integers(4, 40), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_ear_clipping_keeps_the_area_of_any_star(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    if np.diff(np.append(angle, angle[0] + 2 * np.pi)).max() > 3.0:
        return
    ring = counter_clockwise(rng.uniform(2, 10, count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    x, y = ring.T
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2
    a, b, c = (ring[ear_clip(ring)[:, k]] for k in range(3))
    parts = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert np.isclose(parts.sum(), area)
    assert parts.min() > -1e-6


def _corners(model: str, foot_m: tuple[float, float, float], yaw: float, pool: Pool) -> NDArray[np.float64]:
    length, width = pool.actors[model].length_m / 2, pool.actors[model].width_m / 2
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    local = np.array([[length, width], [-length, width], [-length, -width], [length, -width]])
    corners: NDArray[np.float64] = local @ turn.T + foot_m[:2]
    return corners


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Separating axis theorem for two rectangles."""
    for ring in (one, other):
        for axis in (ring[1] - ring[0], ring[2] - ring[1]):
            a, b = one @ axis, other @ axis
            if a.max() < b.min() or b.max() < a.min():
                return True
    return False
