"""The simulated lidar: turns while the ego and everything else move, and returns what a real one would."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import LidarSweep, SweepMotion
from sim.rig import LidarConfig
from sim.scene import MATERIAL_NAMES, MATERIALS, SceneView
from sim.sensors.beams import beam_elevations_rad
from sim.sensors.lidar_returns import Echoes, LidarPhysics
from sim.sensors.scene_caster import SCENERY, Hits, Rays, SceneCaster
from sim.sensors.tiles import tile_order
from sim.sensors.tracks import ActorTracks, ego_poses, knots_over
from sim.weather import Weather

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_IS_GLASS: Final = np.array([MATERIALS[name].is_glass for name in MATERIAL_NAMES])
_PANES: Final = 2
"""Panes of glass that a beam passes: into a car and out again."""
_PAST_PANE_M: Final = np.float32(0.02)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LidarShot:
    """One sweep with its truth, N points. actor_id: (N,) int64 of the actor that each point lies on, -1 elsewhere.

    is_mixed: (N,) bool, True where a point hangs between two surfaces or in the air. actor_ids: (K,) all actors;
    crossed, seen: (K,) int64 beams that would meet each with nothing before it, and those that do.
    """

    sweep: LidarSweep
    actor_id: I64
    is_mixed: NDArray[np.bool_]
    actor_ids: I64
    crossed: I64
    seen: I64


class LidarSensor:
    """One spinning lidar of the rig in one world."""

    def __init__(self, config: LidarConfig, caster: SceneCaster, weather: Weather) -> None:
        self._config = config
        self._caster = caster
        self._ego_SE3_sensor = config.ego_SE3_sensor
        self._elevation = beam_elevations_rad(config.beams)
        self._physics = LidarPhysics(config, weather)
        column, beam = (g.ravel() for g in np.mgrid[: config.columns, : config.beams])
        # Rays go out in blocks of neighbours; points come back in firing order.
        self._order = tile_order(column, beam)
        self._column, self._beam = column, beam

    @property
    def period_ns(self) -> int:
        return round(1e9 / self._config.timing.rate_hz)

    def capture(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> LidarSweep:
        """The raw sweep that ends at `capture_ns`; asks the scene about all of its period before."""
        return self._turn(scene, capture_ns, arrival_ns, rng, counts_hidden=False).sweep

    def shoot(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> LidarShot:
        """The same sweep, with what each point lies on."""
        return self._turn(scene, capture_ns, arrival_ns, rng, counts_hidden=True)

    def _turn(
        self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator, counts_hidden: bool
    ) -> LidarShot:
        config = self._config
        offset = self._column_offsets()
        knots = knots_over(capture_ns - self.period_ns, capture_ns)
        tracks = ActorTracks.sample(scene, knots)
        # Where in a column's width a turn happens to begin differs from sweep to sweep.
        direction = self._directions(rng.uniform())
        world_SE3_lidar = ego_poses(scene, knots, capture_ns + offset) @ self._ego_SE3_sensor
        beams = self._in_world(world_SE3_lidar, direction)
        hits = self._cast(world_SE3_lidar, beams, capture_ns + offset, tracks, counts_hidden)
        normal, albedo, material = self._caster.surfaces.fetch(np.maximum(hits.surface, 0))
        echoes = self._physics.receive(
            incidence=_incidence(beams, normal, hits, tracks),
            distance_m=hits.distance_m,
            is_hit=hits.is_hit,
            material=material,
            albedo=albedo,
            shape=(config.columns, config.beams),
            rng=rng,
        )
        return self._publish(direction, offset, hits, echoes, tracks, capture_ns, arrival_ns)

    def _publish(
        self,
        direction: F32,
        offset: I64,
        hits: Hits,
        echoes: Echoes,
        tracks: ActorTracks,
        capture_ns: int,
        arrival_ns: int,
    ) -> LidarShot:
        rows = np.flatnonzero(echoes.is_received)
        sweep = LidarSweep(
            sensor=self._config.name,
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            points_m=np.ascontiguousarray((direction[:, rows] * echoes.distance_m[rows]).T),
            intensity=echoes.intensity[rows],
            motion=SweepMotion.RAW,
            point_offset_ns=offset[self._column[rows]].astype(np.int32),
            ring=self._beam[rows].astype(np.uint8),
        )
        ids = tracks.states.actor_id
        actor = np.where(echoes.is_airborne, SCENERY, hits.actor)[rows]
        return LidarShot(
            sweep=sweep,
            actor_id=np.append(ids, -1)[actor],
            is_mixed=echoes.is_airborne[rows] | echoes.is_mixed[rows],
            actor_ids=ids,
            crossed=hits.crossed,
            seen=hits.seen(),
        )

    def _column_offsets(self) -> I64:
        """Firing time of each column (C,) from the end of the sweep, all negative or zero."""
        share = (np.arange(self._config.columns) + 1.0) / self._config.columns - 1.0
        return np.round(share * self.period_ns).astype(np.int64)

    def _directions(self, phase: float) -> F32:
        """Beams (3, N) in the lidar frame, in firing order."""
        config = self._config
        turn = 2 * np.pi * (np.arange(config.columns) + phase) / config.columns
        azimuth = np.radians(config.start_azimuth_deg) + (-turn if config.is_clockwise else turn)
        flat, up = np.cos(self._elevation), np.sin(self._elevation)
        direction = np.empty((3, config.columns, config.beams), dtype=np.float32)
        direction[0] = np.cos(azimuth)[:, None] * flat
        direction[1] = np.sin(azimuth)[:, None] * flat
        direction[2] = up
        return direction.reshape(3, -1)

    def _in_world(self, world_SE3_lidar: F64, direction: F32) -> F32:
        """Beams (3, N) in the world, each column turned as the lidar was when it fired."""
        grid = direction.reshape(3, self._config.columns, self._config.beams).transpose(1, 0, 2)
        turned = np.matmul(world_SE3_lidar[:, :3, :3].astype(np.float32), grid)
        return np.ascontiguousarray(turned.transpose(1, 0, 2)).reshape(3, -1)

    def _cast(self, world_SE3_lidar: F64, beams: F32, times_ns: I64, tracks: ActorTracks, counts_hidden: bool) -> Hits:
        """What each beam (in firing order) meets that is not glass; surface -1 where it goes on without end."""
        order, column = self._order, self._column[self._order]
        rays = Rays(
            origin_m=world_SE3_lidar[:, :3, 3].T.take(column, axis=1),
            direction=beams.take(order, axis=1),
            time_ns=times_ns[column],
        )
        reach = self._config.max_range_m
        hits = self._caster.cast(rays, tracks, reach, counts_hidden=counts_hidden)
        distance, surface, actor = hits.distance_m, hits.surface, hits.actor
        material = self._caster.surfaces.material
        for _ in range(_PANES):
            pane = np.flatnonzero((surface >= 0) & _IS_GLASS[material[surface]])
            if len(pane) == 0:
                break
            found = self._caster.cast(_continue(rays, pane, distance[pane] + _PAST_PANE_M), tracks, reach)
            distance[pane] += found.distance_m + _PAST_PANE_M
            surface[pane], actor[pane] = found.surface, found.actor
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return Hits(distance_m=distance[back], surface=surface[back], actor=actor[back], crossed=hits.crossed)


def _incidence(beams: F32, normal: F32, hits: Hits, tracks: ActorTracks) -> F32:
    """Cosine (N,) between beams and surface normals (3, N), which on actors are given in the actor's frame."""
    on = np.flatnonzero(hits.actor >= 0)
    turn = tracks.rotation[tracks.middle].astype(np.float32)[hits.actor[on]]
    normal[:, on] = np.einsum("nij,jn->in", turn, normal.take(on, axis=1))
    return np.asarray(np.abs(np.einsum("in,in->n", normal, beams)), dtype=np.float32)


def _continue(rays: Rays, rows: I64, by_m: F32) -> Rays:
    """The same rays from further along."""
    direction = rays.direction[:, rows]
    time = None if rays.time_ns is None else rays.time_ns[rows]
    return Rays(origin_m=rays.origin_m[:, rows] + by_m * direction, direction=direction, time_ns=time)
