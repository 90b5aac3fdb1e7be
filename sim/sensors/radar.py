"""The simulated radar: scattering points that it can see, merged to what its resolution tells apart."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import RadarScan
from sim.rig import RadarConfig
from sim.scene import MATERIAL_NAMES, MATERIALS, SceneView
from sim.sensors.radar_cells import Scatterers, concatenate, merge_cells
from sim.sensors.radar_echoes import add_clutter, add_ghosts, is_detected
from sim.sensors.scene_caster import Hits, Rays, SceneCaster
from sim.sensors.tracks import ActorTracks, knots_over

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_RADAR: Final = np.array([MATERIALS[name].radar for name in MATERIAL_NAMES])
_FAN_STEP_RAD: Final = np.radians(0.8)
_FAN_ELEVATIONS_RAD: Final = np.radians([-2.5, -1.0, 0.0, 1.5, 4.0])
_SCENERY_GAIN: Final = 30.0
"""Cross-section of a patch of scenery over its area: flat and cornered parts throw back more than they cover."""
_PROBES_PER_M: Final = 1.0
_MIN_PROBES: Final = 2
"""Rays sent to each actor in view, by its length: a car answers with one or two returns, a lorry with several."""
_BENEATH_SHARE: Final = 0.25
"""Hidden actors that are seen all the same: waves pass under and around vehicles."""
_BENEATH_LOSS_DB: Final = 9.0
_MICRO_MPS: Final = 0.25
"""Spread of range rates over one actor: wheels, arms, vibration."""


class RadarSensor:
    """One radar of the rig in one world."""

    def __init__(self, config: RadarConfig, caster: SceneCaster) -> None:
        self._config = config
        self._caster = caster
        self._ego_SE3_sensor = config.ego_SE3_sensor
        half = np.radians(config.field_of_view_deg) / 2
        azimuth = np.arange(-half, half + 1e-9, _FAN_STEP_RAD)
        a, e = (g.ravel() for g in np.meshgrid(azimuth, _FAN_ELEVATIONS_RAD, indexing="ij"))
        self._fan = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        self._half_view_rad = half

    def capture(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> RadarScan:
        """One scan at `capture_ns`."""
        config = self._config
        ego = scene.ego_at(capture_ns)
        world_SE3_radar = ego.world_SE3_ego @ self._ego_SE3_sensor
        tracks = ActorTracks.sample(scene, knots_over(capture_ns, capture_ns))
        actors = self._actor_points(world_SE3_radar, tracks, rng)
        scenery = self._scenery_points(world_SE3_radar, tracks, rng)
        own = _own_velocity(self._ego_SE3_sensor, ego.velocity_mps, ego.yaw_rate_radps)
        seen = merge_cells(concatenate(actors, scenery), own, config)
        seen = seen.rows(is_detected(seen, config, rng) & (rng.random(len(seen)) >= config.miss_share))
        seen = add_ghosts(seen, scenery, config, rng)
        seen = add_clutter(seen, config, self._half_view_rad, rng)
        return self._publish(seen, own, capture_ns, arrival_ns, rng)

    def _publish(
        self, seen: Scatterers, own_mps: F64, capture_ns: int, arrival_ns: int, rng: np.random.Generator
    ) -> RadarScan:
        """Measure: noise on range, azimuth and speed, strongest first, as many as the sensor reports."""
        config = self._config
        strongest = np.argsort(-seen.rcs_dbsm, kind="stable")[: config.max_returns]
        seen = seen.rows(strongest)
        n = len(seen)
        distance, azimuth, elevation = seen.polar()
        distance = np.maximum(distance + rng.normal(0, config.range_noise_m, n), 0.1)
        azimuth = azimuth + np.radians(rng.normal(0, config.azimuth_noise_deg, n))
        elevation = elevation + np.radians(rng.normal(0, 2 * config.azimuth_noise_deg, n))
        if not config.has_elevation:
            elevation = np.zeros(n)
        speed_noise = rng.normal(0, config.speed_noise_mps, n)
        sight = seen.line_of_sight()
        over_ground = seen.rate_mps + speed_noise
        raw = over_ground - sight @ own_mps
        flat = distance * np.cos(elevation)
        points = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1)
        return RadarScan(
            sensor=config.name,
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            points_m=points.astype(np.float32),
            rcs_dbsm=(np.round(seen.rcs_dbsm * 2) / 2).astype(np.float32),
            radial_mps=raw.astype(np.float32),
            compensated_mps=over_ground.astype(np.float32) if config.compensates else None,
            is_valid=seen.is_true & (rng.random(n) > 0.02) | ~seen.is_true & (rng.random(n) > 0.7),
        )

    def _scenery_points(self, world_SE3_radar: F64, tracks: ActorTracks, rng: np.random.Generator) -> Scatterers:
        """Scattering points of what stands still: where a fan of rays meets scenery."""
        jitter = rng.uniform(-0.5, 0.5) * _FAN_STEP_RAD
        cos, sin = np.cos(jitter), np.sin(jitter)
        fan = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ self._fan
        hits = self._cast(world_SE3_radar, fan, tracks)
        rows = np.flatnonzero(hits.is_hit & (hits.actor < 0) & (hits.distance_m <= self._config.max_range_m))
        distance = hits.distance_m[rows].astype(np.float64)
        world_normal, _, material = self._caster.surfaces.fetch(hits.surface[rows])
        normal = world_SE3_radar[:3, :3].T @ world_normal.astype(np.float64)
        cosine = np.abs(np.einsum("in,in->n", fan[:, rows], normal))
        # A patch as wide as a ray is apart from the next, brightest where it faces the radar.
        area = np.minimum((distance * _FAN_STEP_RAD) ** 2, 4.0)
        power = _SCENERY_GAIN * _RADAR[material] * area * (0.05 + cosine**2)
        flicker = rng.exponential(1.0, len(rows))
        return Scatterers(
            points_m=(fan[:, rows] * distance).T,
            rcs_dbsm=10 * np.log10(np.maximum(power * flicker, 1e-6)),
            rate_mps=np.zeros(len(rows)),
            velocity_mps=np.zeros((len(rows), 3)),
            normal=normal.T,
            is_true=np.ones(len(rows), dtype=bool),
        )

    def _actor_points(self, world_SE3_radar: F64, tracks: ActorTracks, rng: np.random.Generator) -> Scatterers:
        """Scattering points of actors: probes at random places of each one's box, and a few that pass beneath."""
        radar_R_world, origin = world_SE3_radar[:3, :3].T, world_SE3_radar[:3, 3]
        near = self._in_view(world_SE3_radar, tracks)
        if len(near) == 0:
            return Scatterers.empty()
        center, half = self._caster.boxes_of(tracks)
        probes = np.maximum(np.round(2 * half[near, 0] * _PROBES_PER_M), _MIN_PROBES).astype(np.int64)
        actor = np.repeat(near, probes)
        is_first = np.diff(actor, prepend=-1) != 0
        spread = rng.uniform(-0.45, 0.45, (len(actor), 3)) * 2 * half[actor]
        rotation, position = tracks.rotation[0], tracks.position_m[0]
        goal = position[actor] + np.einsum("nij,nj->ni", rotation[actor], center[actor] + spread)
        ray = (goal - origin) @ radar_R_world.T
        reach = np.linalg.norm(ray, axis=1)
        ray /= reach[:, None]
        hits = self._cast(world_SE3_radar, ray.T, tracks)
        is_seen = hits.actor == actor
        count = np.bincount(actor[is_seen], minlength=len(tracks.states))
        hidden = (count[actor] == 0) & is_first
        hidden &= rng.random(len(actor)) < _BENEATH_SHARE
        distance = np.where(is_seen, hits.distance_m, reach)
        keep = np.flatnonzero((is_seen | hidden) & (distance <= self._config.max_range_m))
        points = ray[keep] * distance[keep, None]
        velocity = self._velocity(world_SE3_radar, tracks, actor[keep], points)
        aspect = self._aspect_db(ray[keep], radar_R_world @ rotation[actor[keep]])
        nominal = self._nominal_dbsm(tracks)[actor[keep]]
        # Swerling's first case: the echo of many scatterers in one is exponentially distributed.
        flicker = 10 * np.log10(np.maximum(rng.exponential(1.0, len(keep)), 1e-3))
        share = np.where(hidden[keep], _BENEATH_LOSS_DB, 10 * np.log10(np.maximum(count[actor[keep]], 1)))
        unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
        micro = rng.normal(0, _MICRO_MPS, len(keep)) * (np.linalg.norm(velocity, axis=1) > 0.5)
        return Scatterers(
            points_m=points,
            rcs_dbsm=nominal + aspect + flicker - share,
            rate_mps=np.einsum("ni,ni->n", unit, velocity) + micro,
            velocity_mps=velocity,
            normal=-ray[keep],
            is_true=np.ones(len(keep), dtype=bool),
        )

    def _cast(self, world_SE3_radar: F64, directions: F64, tracks: ActorTracks) -> Hits:
        world = (world_SE3_radar[:3, :3] @ directions).astype(np.float32)
        return self._caster.cast(
            Rays(origin_m=world_SE3_radar[:3, 3:], direction=world), tracks, self._config.max_range_m
        )

    def _in_view(self, world_SE3_radar: F64, tracks: ActorTracks) -> I64:
        offset = (tracks.position_m[0] - world_SE3_radar[:3, 3]) @ world_SE3_radar[:3, :3]
        azimuth = np.arctan2(offset[:, 1], offset[:, 0])
        far = np.linalg.norm(offset, axis=1)
        return np.flatnonzero((np.abs(azimuth) <= self._half_view_rad) & (far <= self._config.max_range_m))

    def _nominal_dbsm(self, tracks: ActorTracks) -> F64:
        return np.array([self._caster.models[name].radar_cross_section_dbsm for name in tracks.states.model])

    @staticmethod
    def _velocity(world_SE3_radar: F64, tracks: ActorTracks, actor: I64, points_m: F64) -> F64:
        """Velocity over ground (N, 3), in the radar's axes, of points on actors: they turn as they drive."""
        world = points_m @ world_SE3_radar[:3, :3].T + world_SE3_radar[:3, 3]
        arm = world - tracks.position_m[0][actor]
        rate = tracks.states.yaw_rate_radps[actor]
        turning = np.stack([-rate * arm[:, 1], rate * arm[:, 0], np.zeros(len(rate))], axis=1)
        moved: F64 = (tracks.states.velocity_mps[actor] + turning) @ world_SE3_radar[:3, :3]
        return moved

    @staticmethod
    def _aspect_db(ray: F64, radar_R_actor: F64) -> F64:
        """Broadside and end-on return most: flat panels face the radar there; in between they mirror it away."""
        along = np.einsum("ni,nij->nj", ray, radar_R_actor)
        angle = np.arctan2(along[:, 1], along[:, 0])
        return np.asarray(3.0 * np.cos(4 * angle) - 3.0 + 2.0 * np.sin(angle) ** 2, dtype=np.float64)


def _own_velocity(ego_SE3_radar: F64, velocity_mps: F64, yaw_rate_radps: float) -> F64:
    """Velocity over ground (3,) of the radar itself, in its own axes: the ego's, and its arm's while turning."""
    x, y = ego_SE3_radar[:2, 3]
    over_ground = np.array([velocity_mps[0] - yaw_rate_radps * y, velocity_mps[1] + yaw_rate_radps * x, 0.0])
    own: F64 = ego_SE3_radar[:3, :3].T @ over_ground
    return own
