"""Rays through scenery and moving actors: the nearest hit of each ray, every ray at its own time.

Scenery is cast whole. For actors, rays are taken in tiles of 16 neighbours; only tiles that can meet an actor's box go
into that actor's own frame, where its model never moves. Cost grows with what actors cover, not with their number.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import SceneView
from sim.sensors.raycast import NO_HIT, RayCasterFactory
from sim.sensors.surfaces import ActorLibrary, SurfaceTable
from sim.sensors.tiles import TILE, Boxes, RayTiles, in_tiles, rotate_back, slabs
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


class SceneCaster:
    """The scenery of one world and all its actor models, built once and shared by every sensor and thread."""

    def __init__(self, scene: SceneView, factory: RayCasterFactory) -> None:
        scenery = scene.scenery
        meshes = [scenery, *(mesh for model in scene.models.values() for mesh in model.phases)]
        self.models = scene.models
        self.surfaces = SurfaceTable.of(meshes)
        self._scenery = factory(scenery.vertices_m, scenery.triangles)
        self._library = ActorLibrary.of(scene.models, len(scenery.triangles), factory)

    def cast(self, rays: Rays, tracks: ActorTracks, reach_m: float, *, counts_hidden: bool = False) -> Hits:
        """The nearest hit of each ray, among scenery and the actors within `reach_m`.

        counts_hidden: also cast rays at actors behind the scenery, so that `Hits.crossed` counts them.
        """
        found, triangle = self._scenery.nearest(rays.packed())
        distance, surface = found.copy(), triangle.copy()
        actor = np.full(len(rays), SCENERY, dtype=np.int32)
        crossings = self._cross(rays, tracks, reach_m, None if counts_hidden else distance)
        # Far first: where several actors share a ray, the nearest is written last and stays.
        order = np.flatnonzero(crossings.distance_m < distance[crossings.ray])
        order = order[np.argsort(-crossings.distance_m[order], kind="stable")]
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
        if len(tracks.states) == 0 or len(rays) == 0:
            none = np.zeros(0, dtype=np.int64)
            return _Crossings(ray=none, actor=none, distance_m=np.zeros(0, np.float32), surface=np.zeros(0, np.int32))
        library = self._library
        slots = library.slots_of(tracks.states.model, tracks.states.phase)
        tiles = RayTiles.of(rays.origin_m, rays.direction)
        actor, tile = tiles.meetings(_boxes(library, slots, tracks), reach_m)
        slot = slots[actor]
        start, step = _to_actor_frames(tiles, rays.time_ns, tracks, actor, tile)
        start -= library.center_m.T.astype(np.float32)[:, slot, None]
        enter, leave = slabs(start, step, library.half_m.T.astype(np.float32)[:, slot, None] + _SKIN_M)
        ray = tile[:, None] * TILE + np.arange(TILE)
        meets = (enter <= leave) & (ray < len(rays))
        if limit_m is not None:
            meets &= enter < in_tiles(limit_m[None])[0, tile]
        flat = np.flatnonzero(meets)
        pair = flat // TILE
        entry, span = enter.take(flat), (leave - enter).take(flat)
        # Boxes sit at their slots' centres in the library: from there on rays are its rays.
        start += (library.origin_m + library.center_m).T.astype(np.float32)[:, slot, None]
        packed = np.empty((len(flat), 6), dtype=np.float32)
        for i in range(3):
            packed[:, 3 + i] = step[i].take(flat)
            packed[:, i] = (start[i].take(flat) if start.shape[2] > 1 else start[i, :, 0].take(pair)) + entry * packed[
                :, 3 + i
            ]
        inside, triangle = library.caster.nearest(packed)
        hit = np.flatnonzero((triangle != NO_HIT) & (inside <= span + _SKIN_M))
        return _Crossings(
            ray=ray.take(flat[hit]),
            actor=actor[pair[hit]],
            distance_m=entry[hit] + inside[hit],
            surface=triangle[hit] + np.int32(library.first_surface),
        )


def _boxes(library: ActorLibrary, slots: I64, tracks: ActorTracks) -> Boxes:
    middle = tracks.middle
    rotation = tracks.rotation[middle]
    return Boxes(
        center_m=tracks.position_m[middle] + np.einsum("kij,kj->ki", rotation, library.center_m[slots]),
        half_m=library.half_m[slots],
        rotation=rotation,
        margin_m=tracks.margin_m(library.radius_m[slots]),
    )


def _to_actor_frames(
    tiles: RayTiles, time_ns: I64 | None, tracks: ActorTracks, actor: I64, tile: I64
) -> tuple[F32, F32]:
    """Origins and directions (3, P, 16) of tiles of rays in the frames of actors, each ray at its own time."""
    step = tiles.directions[:, tile]
    origin = tiles.origins_m[:, tile] if tiles.origins_m.shape[1] > 1 else tiles.origins_m
    position = (tracks.position_m - tiles.anchor_m).astype(np.float32)
    if time_ns is None:
        segment: I64 = np.full(len(tile), tracks.middle, dtype=np.int64)
        start = origin - position[tracks.middle].T[:, actor, None]
    else:
        # One segment for a tile: its few rays past a knot go on at the same pace, by micrometres at most.
        segment, share = tracks.place(in_tiles(time_ns[None])[0, tile])
        here = position[segment, actor].T[:, :, None]
        # Rays of one origin still start from many places in the frame of an actor that moves.
        start = origin - (here + share * (position[segment + 1, actor].T[:, :, None] - here))
        angle = share * tracks.turn_rad[segment, actor].astype(np.float32)[:, None]
        cos, sin = np.cos(angle), np.sin(angle)
        start, step = _turn_back(start, cos, sin), _turn_back(step, cos, sin)
    r = tracks.rotation[segment, actor].reshape(-1, 9).T.astype(np.float32)[:, :, None]
    return rotate_back(r, start), rotate_back(r, step)


def _turn_back(vector: F32, cos: F32, sin: F32) -> F32:
    x, y, z = vector
    turned = np.empty(np.broadcast_shapes(vector.shape, cos.shape), dtype=np.float32)
    np.multiply(cos, x, out=turned[0])
    turned[0] += sin * y
    np.multiply(cos, y, out=turned[1])
    turned[1] -= sin * x
    turned[2] = z
    return turned
