"""Rays through scenery and moving actors: the nearest hit of each ray, every ray at its own time.

Scenery is cast whole. For actors, rays are taken in tiles of 64 neighbours; only tiles that can meet an actor's box go
into that actor's own frame, where its model never moves. Cost grows with what actors cover, not with their number.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import SceneView
from sim.sensors.raycast import NO_HIT, RayCasterFactory
from sim.sensors.surfaces import ActorLibrary, SurfaceTable
from sim.sensors.tiles import TILE, RayTiles
from sim.sensors.tracks import ActorTracks

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

SCENERY: Final = -1
"""`Hits.actor` where the scenery was hit, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rays:
    """N rays in the world, neighbours next to each other. origin_m: (3, N) or (3, 1). direction: (3, N) float32 unit.

    time_ns: (N,) int64, or None where all leave at the time of the only knot.
    """

    origin_m: F32 | F64
    direction: F32
    time_ns: I64 | None = None

    def __len__(self) -> int:
        return self.direction.shape[1]

    def packed(self) -> F32:
        """(N, 6) float32, as ray casters take them."""
        rays = np.empty((len(self), 6), dtype=np.float32)
        rays[:, :3] = self.origin_m.T
        rays[:, 3:] = self.direction.T
        return rays


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hits:
    """What N rays met first. distance_m: (N,) float32, inf where nothing. surface: (N,) int32 into the surface table, -1.

    actor: (N,) int32 row of the tracks' actors, `SCENERY` elsewhere. crossed: (K,) int64 rays that would meet each actor
    if nothing stood before it; how many of them do meet it says how visible it is.
    """

    distance_m: F32
    surface: I32
    actor: I32
    crossed: I64

    @property
    def is_hit(self) -> Bool:
        return self.surface != NO_HIT

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


class SceneCaster:
    """The scenery of one world and all its actor models, built once and shared by every sensor and thread."""

    def __init__(self, scene: SceneView, factory: RayCasterFactory) -> None:
        scenery = scene.scenery
        meshes = [scenery, *(mesh for model in scene.models.values() for mesh in model.phases)]
        self.models = scene.models
        self.surfaces = SurfaceTable.of(meshes)
        self._scenery = factory(scenery.vertices_m, scenery.triangles)
        self._library = ActorLibrary.of(scene.models, len(scenery.triangles), factory)
        sizes = np.array([len(mesh.triangles) for mesh in meshes[1:]], dtype=np.int64)
        self._slot_of_triangle = np.repeat(np.arange(len(sizes)), sizes)

    def cast(self, rays: Rays, tracks: ActorTracks, reach_m: float) -> Hits:
        """The nearest hit of each ray, among scenery and the actors within `reach_m`."""
        distance, triangle = self._scenery.nearest(rays.packed())
        distance, surface = distance.copy(), triangle.copy()
        actor = np.full(len(rays), SCENERY, dtype=np.int32)
        crossings = self._cross(rays, tracks, reach_m)
        # Far first: where several actors share a ray, the nearest is written last and stays.
        order = np.argsort(-crossings.distance_m, kind="stable")
        order = order[crossings.distance_m[order] < distance[crossings.ray[order]]]
        ray = crossings.ray[order]
        distance[ray] = crossings.distance_m[order]
        surface[ray] = crossings.surface[order]
        actor[ray] = crossings.actor[order]
        crossed = np.bincount(crossings.actor, minlength=len(tracks.states))
        return Hits(distance_m=distance, surface=surface, actor=actor, crossed=crossed)

    def is_blocked(self, rays: Rays, tracks: ActorTracks, reach_m: float, within_m: float = np.inf) -> Bool:
        """True (N,) where anything lies along a ray nearer than `within_m`: what shadows need."""
        if np.isinf(within_m):
            blocked = self._scenery.is_blocked(rays.packed()).copy()
        else:
            blocked = self._scenery.nearest(rays.packed())[0] < within_m
        crossings = self._cross(rays, tracks, min(reach_m, within_m))
        blocked[crossings.ray[crossings.distance_m < within_m]] = True
        return blocked

    def boxes_of(self, tracks: ActorTracks) -> tuple[F64, F64]:
        """Centre and half size (K, 3) of each actor's box as it is now, in its own frame."""
        slots = self._library.slots_of(tracks.states.model, tracks.states.phase)
        return self._library.center_m[slots], self._library.half_m[slots]

    def _cross(self, rays: Rays, tracks: ActorTracks, reach_m: float) -> _Crossings:
        """Every meeting of a ray with an actor, occluded or not."""
        none = np.zeros(0, dtype=np.int64)
        if len(tracks.states) == 0 or len(rays) == 0:
            return _Crossings(ray=none, actor=none, distance_m=np.zeros(0, np.float32), surface=np.zeros(0, np.int32))
        slots = self._library.slots_of(tracks.states.model, tracks.states.phase)
        actor, tile = self._candidates(rays, tracks, slots, reach_m)
        ray = (tile[:, None] * TILE + np.arange(TILE)).ravel()
        actor = np.repeat(actor, TILE)
        within = ray < len(rays)
        ray, actor = ray[within], actor[within]
        start, direction = _to_actor_frames(rays, tracks, ray, actor)
        return self._cast_slots(ray, actor, slots[actor], start, direction)

    def _candidates(self, rays: Rays, tracks: ActorTracks, slots: I64, reach_m: float) -> tuple[I64, I64]:
        middle = tracks.middle
        rotation = tracks.rotation[middle]
        center = tracks.position_m[middle] + np.einsum("kij,kj->ki", rotation, self._library.center_m[slots])
        radius = self._library.radius_m[slots]
        return RayTiles.of(rays.origin_m, rays.direction).meetings(
            center_m=center,
            half_m=self._library.half_m[slots],
            rotation=rotation,
            margin_m=tracks.margin_m(radius),
            reach_m=reach_m,
        )

    def _cast_slots(self, ray: I64, actor: I64, slot: I64, start: F32, direction: F32) -> _Crossings:
        """Cast rays given in actors' frames, from where they enter the actor's bounding sphere."""
        library = self._library
        radius = library.radius_m[slot].astype(np.float32)
        offset = start - library.center_m.T.astype(np.float32)[:, slot]
        along = -np.einsum("ij,ij->j", offset, direction)
        miss2 = np.einsum("ij,ij->j", offset, offset) - along * along
        meets = (miss2 <= radius * radius) & (along >= -radius)
        ray, actor, slot, radius, along = ray[meets], actor[meets], slot[meets], radius[meets], along[meets]
        entry = np.maximum(along - radius, np.float32(0))
        origin = start[:, meets] + library.origin_m.T.astype(np.float32)[:, slot] + entry * direction[:, meets]
        packed = np.empty((len(ray), 6), dtype=np.float32)
        packed[:, :3], packed[:, 3:] = origin.T, direction[:, meets].T
        inside, triangle = library.caster.nearest(packed)
        hit = (triangle != NO_HIT) & (inside <= 2 * radius + np.float32(0.01))
        hit[hit] = self._slot_of_triangle[triangle[hit]] == slot[hit]
        return _Crossings(
            ray=ray[hit],
            actor=actor[hit],
            distance_m=(entry + inside)[hit],
            surface=triangle[hit] + np.int32(library.first_surface),
        )


def _to_actor_frames(rays: Rays, tracks: ActorTracks, ray: I64, actor: I64) -> tuple[F32, F32]:
    """Origins and directions (3, Q) of rays in the frames of actors, each at its ray's own time."""
    direction = rays.direction[:, ray]
    origin = rays.origin_m[:, ray] if rays.origin_m.shape[1] > 1 else rays.origin_m
    position = tracks.position_m
    if rays.time_ns is None:
        segment: I64 = np.full(1, tracks.middle, dtype=np.int64)
        offset = (origin - position[tracks.middle].T[:, actor]).astype(np.float32)
    else:
        segment, share = tracks.place(rays.time_ns[ray])
        start, end = position[segment, actor].T, position[segment + 1, actor].T
        offset = (origin - (start + share * (end - start))).astype(np.float32)
        angle = (share * tracks.turn_rad[segment, actor]).astype(np.float32)
        cos, sin = np.cos(angle), np.sin(angle)
        offset, direction = _turn_back(offset, cos, sin), _turn_back(direction, cos, sin)
    knots = len(tracks.knots_ns)
    table = tracks.rotation.reshape(knots * len(tracks.states), 9).T.astype(np.float32)
    r = table[:, segment * len(tracks.states) + actor]
    return _rotate_back(r, offset), _rotate_back(r, direction)


def _turn_back(vector: F32, cos: F32, sin: F32) -> F32:
    turned = np.empty_like(vector)
    turned[0] = cos * vector[0] + sin * vector[1]
    turned[1] = cos * vector[1] - sin * vector[0]
    turned[2] = vector[2]
    return turned


def _rotate_back(r: F32, vector: F32) -> F32:
    """Transposed rotations (9, Q), row by row, times vectors (3, Q)."""
    rotated = np.empty((3, r.shape[1]), dtype=np.float32)
    for i in range(3):
        rotated[i] = r[i] * vector[0] + r[3 + i] * vector[1] + r[6 + i] * vector[2]
    return rotated
