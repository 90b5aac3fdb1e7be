"""The actor pool: closed meshes wound outwards, tight boxes, sizes, phases, one pool for one seed."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from perception.core.taxonomy import CLASSES
from sim.actors.body import Actor
from sim.actors.people import GAIT_PHASES
from sim.actors.pool import COUNTS, Pool, build_pool
from sim.actors.solids import volume_m3
from sim.scene import MATERIAL_INDEX, Mesh
from sim.traffic_types import fleet_of


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool(4)


def _parts(mesh: Mesh) -> list[np.ndarray]:
    """Triangles of each connected part."""
    t, v = mesh.triangles.astype(np.int64), len(mesh.vertices_m)
    links = coo_matrix((np.ones(2 * len(t)), (np.r_[t[:, 0], t[:, 1]], np.r_[t[:, 1], t[:, 2]])), shape=(v, v))
    _, label = connected_components(links, directed=False)
    return [t[label[t[:, 0]] == part] for part in np.unique(label[t[:, 0]])]


def _each(pool: Pool) -> list[tuple[str, Mesh]]:
    return [(actor.model.name, mesh) for actor in pool.actors.values() for mesh in actor.model.phases]


def test_every_edge_is_shared_by_two_triangles_that_run_against_each_other(pool: Pool) -> None:
    for name, mesh in _each(pool):
        t = mesh.triangles.astype(np.int64)
        edges = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
        forward, back = np.sort(edges @ (10**6, 1)), np.sort(edges[:, ::-1] @ (10**6, 1))
        assert len(np.unique(forward)) == len(forward), f"{name}: an edge is run along twice in one direction"
        assert np.array_equal(forward, back), f"{name}: an edge has one triangle only"


def test_every_part_is_wound_outwards(pool: Pool) -> None:
    for name, mesh in _each(pool):
        for part in _parts(mesh):
            middle = mesh.vertices_m[part].reshape(-1, 3).mean(axis=0)
            assert volume_m3(mesh.vertices_m - middle, part) > 0, name


def test_the_box_is_tight_over_all_phases_and_stands_centred_on_the_ground(pool: Pool) -> None:
    for actor in pool.actors.values():
        points = np.concatenate([mesh.vertices_m for mesh in actor.model.phases]).astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        center, size = actor.model.box_center_m, actor.model.box_size_m
        assert np.allclose((center - size / 2, center + size / 2), (low, high), atol=1e-6), actor.model.name
        assert np.allclose((center[0], center[1], low[2]), 0.0, atol=1e-5), actor.model.name


@pytest.mark.parametrize(
    ("kind", "length", "width", "height"),
    [
        ("hatchback", (3.6, 4.5), (1.7, 2.2), (1.3, 1.7)),
        ("saloon", (4.3, 5.1), (1.7, 2.2), (1.3, 1.7)),
        ("van", (4.9, 6.0), (1.9, 2.4), (2.1, 2.6)),
        ("lorry", (6.4, 9.3), (2.4, 2.9), (2.9, 3.7)),
        ("trailer", (9.9, 14.0), (2.4, 2.7), (3.5, 4.1)),
        ("bus", (10.4, 12.5), (2.5, 2.9), (2.9, 3.5)),
        ("motorcycle", (1.9, 2.4), (0.6, 0.9), (1.4, 2.0)),
        ("bicycle", (1.6, 1.9), (0.4, 0.8), (1.5, 2.0)),
        ("adult", (0.6, 1.2), (0.4, 0.8), (1.5, 2.0)),
        ("child", (0.4, 1.0), (0.3, 0.6), (1.0, 1.5)),
        ("cone", (0.3, 0.6), (0.3, 0.6), (0.7, 1.0)),
    ],
)
def test_sizes_are_those_of_real_ones(
    pool: Pool, kind: str, length: tuple[float, float], width: tuple[float, float], height: tuple[float, float]
) -> None:
    for actor in pool.of(kind):
        for size, (low, high) in zip(actor.model.box_size_m, (length, width, height), strict=True):
            assert low <= size <= high, (actor.model.name, actor.model.box_size_m)


def test_cars_are_more_than_boxes_and_cheap_enough(pool: Pool) -> None:
    for actor in pool.of("hatchback", "saloon", "suv", "van", "pickup"):
        mesh = actor.model.phases[0]
        assert 250 <= len(mesh.triangles) <= 900
        seen = set(mesh.material.tolist())
        assert {
            MATERIAL_INDEX[name] for name in ("car_paint", "glass", "tyre", "headlight", "taillight", "plate")
        } <= seen
        # A box fills its bounding volume; a car with bonnet and sloping screens does not.
        filled = volume_m3(mesh.vertices_m, mesh.triangles) / float(np.prod(actor.model.box_size_m))
        assert 0.35 < filled < 0.85, actor.model.name


def test_all_classes_are_there_and_signal_heads_have_none(pool: Pool) -> None:
    classes = {actor.model.class_index for actor in pool.actors.values() if actor.kind != "signal"}
    assert classes == set(range(len(CLASSES)))
    assert all(actor.model.class_index == -1 for actor in pool.of("signal"))
    assert len(pool.actors) == sum(COUNTS.values()) >= 40


def test_walkers_move_their_limbs_and_stand_in_the_last_phase(pool: Pool) -> None:
    for actor in pool.of("adult", "child", "worker"):
        phases = actor.model.phases
        assert len(phases) == GAIT_PHASES + 1
        reach = [float(np.ptp(mesh.vertices_m[:, 0])) for mesh in phases]
        assert reach[-1] < 0.75 * max(reach), "standing feet are side by side"
        # Half a cycle later left and right have changed places.
        half = GAIT_PHASES // 2
        assert np.isclose(np.ptp(phases[1].vertices_m[:, 0]), np.ptp(phases[1 + half].vertices_m[:, 0]), atol=0.02)
        assert not np.allclose(phases[1].vertices_m, phases[1 + half].vertices_m, atol=0.05)


def test_equal_seeds_give_equal_bytes_and_others_do_not(pool: Pool) -> None:
    again, other = build_pool(4), build_pool(5)
    for (name, one), (_, same) in zip(_each(pool), _each(again), strict=True):
        assert one.vertices_m.tobytes() == same.vertices_m.tobytes(), name
        assert one.color_rgb.tobytes() == same.color_rgb.tobytes(), name
    assert not np.array_equal(pool.actors["saloon_0"].model.box_size_m, other.actors["saloon_0"].model.box_size_m)


def test_the_axle_that_follows_lies_in_the_rear_half_and_trailers_hang_over_it(pool: Pool) -> None:
    def half(actor: Actor) -> float:
        return actor.length_m / 2

    for actor in pool.of("hatchback", "saloon", "suv", "van", "lorry", "bus", "motorcycle", "bicycle"):
        assert -half(actor) < actor.rear_axle_m < 0, actor.model.name
    articulated = [entry for entry in fleet_of(pool) if entry.trailer is not None]
    assert articulated
    for entry in articulated:
        front, behind = pool.actors[entry.model], pool.actors[str(entry.trailer)]
        assert front.hitch_m is not None
        assert behind.kingpin_m is not None
        # The trailer's nose reaches over the frame behind the cab, and does not touch the cab (2.3 m long).
        nose = front.hitch_m + half(behind) - behind.kingpin_m
        assert -half(front) < nose < half(front) - 2.3
        assert front.length_m < entry.length_m < front.length_m + behind.length_m
