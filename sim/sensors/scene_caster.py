"""Rays through scenery and moving actors: the nearest hit of each ray, every ray at its own time.

Scenery is cast whole. Only rays that enter an actor's box are cast at its model, in its own frame, where it never
moves. Cost grows with what actors cover, not with their number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import SceneView
from sim.sensors.actor_rays import BLOCK, TILE, bound_rays, enter_boxes, keep_nearest, mark_near
from sim.sensors.raycast import NO_HIT, RayCasterFactory
from sim.sensors.surfaces import ActorLibrary, SurfaceTable
from sim.sensors.tracks import ActorTracks

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

SCENERY: Final = -1
"""`Hits.actor` where the scenery was hit, or nothing."""

_SKIN_M: Final = np.float32(1e-3)
"""Boxes are cast a little larger than their meshes: a ray must start outside the surface that it meets."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rays:
    """N rays in the world, neighbours next to each other. origin_m: (3, N) or (3, 1). direction: (3, N) float32 unit.

    time_ns: (N,) int64, or None where all leave at the time of the only knot.
    """

    origin_m: F32 | F64
    direction: F32
    time_ns: I64 | None = None

    def __len__(self) -> int:
        return int(self.direction.shape[1])

    def packed(self) -> F32:
        """(N, 6) float32, as ray casters take them."""
        rays = np.empty((len(self), 6), dtype=np.float32)
        rays[:, :3] = self.origin_m.T
        rays[:, 3:] = self.direction.T
        return rays


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hits:
    """What N rays met first. distance_m: (N,) float32, inf where nothing. surface: (N,) int32 into the table, -1.

    actor: (N,) int32 row of the tracks' actors, `SCENERY` elsewhere. crossed: (K,) int64 rays that would meet each
    actor if nothing stood before it; how many of them do meet it says how visible it is.
    """

    distance_m: F32
    surface: I32
    actor: I32
    crossed: I64

    @property
    def is_hit(self) -> Bool:
        is_hit: Bool = self.surface != NO_HIT
        return is_hit

    def seen(self) -> I64:
        """(K,) rays that met each actor first."""
        return np.bincount(self.actor[self.actor >= 0], minlength=len(self.crossed))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Crossings:
    """Rays that meet an actor, a row each: ray, actor, distance, surface."""

    ray: I64
    actor: I64
    distance_m: F32
    surface: I32

    @classmethod
    def none(cls) -> "_Crossings":
        none = np.zeros(0, dtype=np.int64)
        return cls(ray=none, actor=none, distance_m=np.zeros(0, np.float32), surface=np.zeros(0, np.int32))


class SceneCaster:
    """The scenery of one world and all its actor models, built once and shared by every sensor and thread."""

    def __init__(self, scene: SceneView, factory: RayCasterFactory) -> None:
        scenery = scene.scenery
        meshes = [scenery, *(mesh for model in scene.models.values() for mesh in model.phases)]
        self.models = scene.models
        self.surfaces = SurfaceTable.of(meshes)
        self.scenery = factory(scenery.vertices_m, scenery.triangles)
        self._library = ActorLibrary.of(scene.models, len(scenery.triangles), factory)

    def cast(
        self,
        rays: Rays,
        tracks: ActorTracks,
        reach_m: float,
        *,
        scenery: tuple[F32, I32] | None = None,
        counts_hidden: bool = False,
    ) -> Hits:
        """The nearest hit of each ray, among scenery and the actors within `reach_m`.

        scenery: distance and surface (N,) of the scenery along the rays, where that is known already. counts_hidden:
        also cast rays at actors behind the scenery, so that `Hits.crossed` counts them.
        """
        found, triangle = self.scenery.nearest(rays.packed()) if scenery is None else scenery
        distance, surface = found.copy(), triangle.copy()
        actor = np.full(len(rays), SCENERY, dtype=np.int32)
        crossings = self._cross(rays, tracks, reach_m, None if counts_hidden else distance)
        keep_nearest(crossings.ray, crossings.actor, crossings.distance_m, crossings.surface, distance, surface, actor)
        crossed = np.bincount(crossings.actor, minlength=len(tracks.states))
        return Hits(distance_m=distance, surface=surface, actor=actor, crossed=crossed)

    def is_blocked(self, rays: Rays, tracks: ActorTracks, reach_m: float, within_m: float = np.inf) -> Bool:
        """True (N,) where anything lies along a ray nearer than `within_m`: what shadows need."""
        if np.isinf(within_m):
            blocked = self.scenery.is_blocked(rays.packed()).copy()
        else:
            blocked = self.scenery.nearest(rays.packed())[0] < within_m
        limit = np.where(blocked, np.float32(0), np.float32(within_m))
        crossings = self._cross(rays, tracks, min(reach_m, within_m), limit)
        blocked[crossings.ray[crossings.distance_m < within_m]] = True
        return blocked

    def boxes_of(self, tracks: ActorTracks) -> tuple[F64, F64]:
        """Centre and half size (K, 3) of each actor's box as it is now, in its own frame."""
        slots = self._library.slots_of(tracks.states.model, tracks.states.phase)
        return self._library.center_m[slots], self._library.half_m[slots]

    def _cross(self, rays: Rays, tracks: ActorTracks, reach_m: float, limit_m: F32 | None) -> _Crossings:
        """Every meeting of a ray with an actor's model that begins nearer than `limit_m` (N,), or anywhere."""
        library, count = self._library, len(tracks.states)
        if count == 0 or len(rays) == 0:
            return _Crossings.none()
        slots = library.slots_of(tracks.states.model, tracks.states.phase)
        anchor = rays.origin_m[:, 0].astype(np.float64)
        origin = (rays.origin_m - anchor[:, None]).astype(np.float32)
        segment, share = tracks.places(rays.time_ns)
        is_near = _near_tiles(origin, rays.direction, _balls(library, slots, tracks, anchor), np.float32(reach_m))
        entered = _Entries.of(
            _capacity(len(rays)),
            lambda into: enter_boxes(
                origin,
                rays.direction,
                np.full(len(rays), np.inf, dtype=np.float32) if limit_m is None else limit_m,
                segment,
                share,
                is_near,
                (tracks.position_m - anchor).astype(np.float32),
                tracks.rotation.reshape(-1, count, 9).astype(np.float32),
                tracks.turn_rad.astype(np.float32),
                _boxes(library, slots),
                into.ray,
                into.actor,
                into.span_m,
                into.entry_m,
                into.inside,
            ),
        )
        inside, triangle = library.caster.nearest(entered.inside)
        hit = np.flatnonzero((triangle != NO_HIT) & (inside <= entered.span_m + _SKIN_M))
        return _Crossings(
            ray=entered.ray[hit],
            actor=entered.actor[hit],
            distance_m=entered.entry_m[hit] + inside[hit],
            surface=triangle[hit] + np.int32(library.first_surface),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Entries:
    """Rays that enter actors' boxes, a row each, as `enter_boxes` finds them."""

    ray: I64
    actor: I64
    span_m: F32
    entry_m: F32
    inside: F32

    @classmethod
    def of(cls, capacity: int, find: Callable[["_Entries"], int]) -> "_Entries":
        """What `find` finds; asked again with more room where `capacity` was not enough."""
        while True:
            room = cls(
                ray=np.empty(capacity, dtype=np.int64),
                actor=np.empty(capacity, dtype=np.int64),
                span_m=np.empty(capacity, dtype=np.float32),
                entry_m=np.empty(capacity, dtype=np.float32),
                inside=np.empty((capacity, 6), dtype=np.float32),
            )
            count = find(room)
            if count <= capacity:
                return cls(**{name: getattr(room, name)[:count] for name in cls.__slots__})
            capacity = count


def _capacity(rays: int) -> int:
    return rays + 1024


def _near_tiles(origin_m: F32, direction: F32, balls: F32, reach_m: np.float32) -> Bool:
    """(tiles, K) which actors each tile of rays may meet: found for whole blocks first."""
    is_near = np.ones((1, len(balls)), dtype=np.bool_)
    blocks = -(-direction.shape[1] // BLOCK)
    for size, runs in ((BLOCK, blocks), (TILE, BLOCK // TILE)):
        bounds, wider = _bounds(origin_m, direction, size), is_near
        is_near = np.empty((bounds.shape[1], len(balls)), dtype=np.bool_)
        mark_near(bounds, balls, reach_m, wider, runs, is_near)
    return is_near


def _bounds(origin_m: F32, direction: F32, size: int) -> F32:
    bounds = np.empty((9, -(-direction.shape[1] // size)), dtype=np.float32)
    bound_rays(origin_m, direction, size, bounds)
    return bounds


def _balls(library: ActorLibrary, slots: I64, tracks: ActorTracks, anchor_m: F64) -> F32:
    """Spheres (K, 4) that actors stay within: centre from the anchor, radius."""
    center = tracks.position_m[tracks.middle] - anchor_m
    center = center + np.einsum("kij,kj->ki", tracks.rotation[tracks.middle], library.center_m[slots])
    radius = np.linalg.norm(library.half_m[slots] + _SKIN_M, axis=1) + tracks.margin_m(library.radius_m[slots])
    return np.concatenate([center, radius[:, None]], axis=1).astype(np.float32)


def _boxes(library: ActorLibrary, slots: I64) -> F32:
    """(K, 9) centre and half size of actors' boxes in their frames, and the centre's place in the library."""
    center = library.center_m[slots]
    place = library.origin_m[slots] + center
    return np.concatenate([center, library.half_m[slots] + _SKIN_M, place], axis=1).astype(np.float32)
