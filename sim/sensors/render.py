"""Light along rays at one moment of a world: what a camera's pixels are made from."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import MATERIAL_INDEX, ActorModel, EgoPose, SceneView
from sim.sensors.lamps import SIGNAL_MATERIALS, Lamps, glow_of, street_lamps
from sim.sensors.scene_caster import Hits, Rays, SceneCaster
from sim.sensors.shading import Fragments, Shader
from sim.sensors.sky import Sky
from sim.sensors.surface_points import fill_surface_points
from sim.sensors.textures import TextureAtlas
from sim.sensors.tiles import tile_order
from sim.sensors.tracks import ActorTracks
from sim.weather import Weather

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

VIEW_M: Final = 250.0
"""Actors further away are not drawn."""
SHADOW_M: Final = 120.0
"""Beyond, a shadow is smaller than a pixel of the cameras here: all is taken to be lit."""
NEARBY_M: Final = 3.0
"""Only what is nearer than this keeps the sky's light from a surface."""
DOME: Final = 16
"""Directions to the sky, shared out over blocks of 4x4 pixels."""
_CAN_GLOW: Final = np.isin(
    np.arange(256), [MATERIAL_INDEX[m] for m in ("headlight", "taillight", "window")] + list(SIGNAL_MATERIALS)
)
_NO_SIGNAL: Final = 255
_LIFT_M: Final = np.float32(0.015)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """The world during one exposure. lit_signal: (K,) uint8 lamp material that shines on each actor, 255 for none."""

    ego: EgoPose
    tracks: ActorTracks
    lamps: Lamps
    lit_signal: U8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sight:
    """What N rays saw. rows: (M,) those that hit a surface; fragments: M of them."""

    rays: Rays
    hits: Hits
    rows: I64
    fragments: Fragments


class Renderer:
    """Draws one world in one weather; shared by all cameras and threads."""

    def __init__(self, scene: SceneView, caster: SceneCaster, weather: Weather, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x5C3])
        self.weather = weather
        self.sky = Sky(weather, rng)
        self.caster = caster
        self._shader = Shader(weather, self.sky.daylight, TextureAtlas(rng))
        self._street = street_lamps(scene.scenery) if weather.is_dark else np.zeros((0, 3))
        self._front = {name: _headlamps_at(model) for name, model in scene.models.items()}
        self._dome = _dome(DOME)

    def moment(self, scene: SceneView, time_ns: int, knots_ns: I64) -> Moment:
        tracks = ActorTracks.sample(scene, knots_ns)
        ego = scene.ego_at(time_ns)
        lit = np.full(len(tracks.states), _NO_SIGNAL, dtype=np.uint8)
        for actor, name in scene.signal_lamps_at(time_ns).items():
            lit[tracks.states.actor_id == actor] = MATERIAL_INDEX[name]
        lamps = Lamps.none()
        if self.weather.is_dark:
            front = np.array([self._front[name] for name in tracks.states.model], dtype=np.float64)
            lamps = Lamps.near(ego, tracks, front, self._street)
        return Moment(ego=ego, tracks=tracks, lamps=lamps, lit_signal=lit)

    def look(
        self,
        rays: Rays,
        moment: Moment,
        pixel_rad: float,
        *,
        scenery: tuple[F32, NDArray[np.int32]] | None = None,
        counts_hidden: bool = False,
    ) -> Sight:
        """Find what rays see; pixel_rad: angle that a pixel covers. scenery: see `SceneCaster.cast`."""
        hits = self.caster.cast(rays, moment.tracks, VIEW_M, scenery=scenery, counts_hidden=counts_hidden)
        rows = np.flatnonzero(hits.is_hit)
        tracks, count = moment.tracks, len(moment.tracks.states)
        point, material = np.empty((19, len(rows)), dtype=np.float32), np.empty(len(rows), dtype=np.uint8)
        fill_surface_points(
            rows,
            rays.origin_m.astype(np.float32),
            rays.direction,
            hits.distance_m,
            hits.surface,
            hits.actor,
            self.caster.surfaces.look,
            tracks.rotation[tracks.middle].reshape(count, 9).astype(np.float32),
            tracks.position_m[tracks.middle].astype(np.float32),
            point,
            material,
        )
        fragments = Fragments(
            point=point,
            footprint_m=point[15] * np.float32(pixel_rad),
            material=material,
            glow=self._glow(material, hits.surface, hits.actor, rows, moment),
        )
        return Sight(rays=rays, hits=hits, rows=rows, fragments=fragments)

    def _glow(
        self, material: U8, surface: NDArray[np.int32], actor: NDArray[np.int32], rows: I64, moment: Moment
    ) -> F32:
        """Strength (M,) of the own light of what rays `rows` (M,) hit; few materials have any."""
        glow = np.zeros(len(rows), dtype=np.float32)
        some = np.flatnonzero(_CAN_GLOW.take(material))
        street = MATERIAL_INDEX["lamp_yellow"] if self.weather.is_dark else _NO_SIGNAL
        # The last entry answers row -1, the scenery: its lamps are street lamps.
        lit = np.append(moment.lit_signal, np.uint8(street))[actor[rows[some]]]
        glow[some] = glow_of(material[some], self.caster.surfaces.pane[surface[rows[some]]], lit, self.weather)
        return glow

    def faces(self, hits: Hits) -> I64:
        """A number (N,) for what each ray hit, equal where no edge lies between: same actor, look and direction."""
        face = self.caster.surfaces.face[hits.surface] + ((hits.actor.astype(np.int64) + 1) << 48)
        face[~hits.is_hit] = -1
        return face

    @property
    def is_ambient(self) -> bool:
        """Whether light comes from all over the sky, so that what is near takes its share; the sun drowns that."""
        return not self.sky.daylight.has_shadows

    def sunlit(self, sight: Sight, asked: I64, moment: Moment) -> F32:
        """Whether the sun reaches fragments `asked` (A,): 0 or 1, where it does not set behind them anyway."""
        seen, daylight = sight.fragments, self.sky.daylight
        lit = np.ones(len(asked), dtype=np.float32)
        normal = seen.normal.take(asked, axis=1)
        faces = (daylight.sun_direction @ normal > 0) & (seen.distance_m[asked] < SHADOW_M)
        rows = np.flatnonzero(faces)
        # Neighbours in the image may lie far apart in the world, and there it is that shadow rays pass actors.
        place = seen.position_m.take(asked[rows], axis=1)[:2]
        cell = (place - place.min(axis=1, initial=1e9)[:, None]).astype(np.int64)
        rows = rows[tile_order(cell[1], cell[0])]
        origin = seen.position_m.take(asked[rows], axis=1) + _LIFT_M * normal.take(rows, axis=1)
        rays = Rays(origin_m=origin, direction=np.repeat(daylight.sun_direction[:, None], len(rows), axis=1))
        lit[rows] = ~self.caster.is_blocked(rays, _still(moment.tracks), VIEW_M)
        return lit

    def open_sky(self, sight: Sight, asked: I64, moment: Moment, pattern: I64) -> F32:
        """Whether one direction of the sky's dome is free, (A,) 0 or 1, for fragments `asked` (A,).

        pattern: (A,) which of the `DOME` directions each of them looks in.
        """
        seen = sight.fragments
        free = np.ones(len(asked), dtype=np.float32)
        near = np.flatnonzero(seen.distance_m[asked] < SHADOW_M / 2)
        normal = seen.normal.take(asked[near], axis=1)
        direction = self._dome.take(pattern[near], axis=1) + normal
        direction /= np.linalg.norm(direction, axis=0)
        origin = seen.position_m.take(asked[near], axis=1) + _LIFT_M * normal
        rays = Rays(origin_m=origin, direction=direction)
        free[near] = ~self.caster.is_blocked(rays, _still(moment.tracks), NEARBY_M, within_m=NEARBY_M)
        return free

    def radiance(self, sight: Sight, moment: Moment, sunlit: F32, open_sky: F32) -> F32:
        """Light (3, N) along all rays of a sight; sunlit, open_sky: (M,) 0..1 what reaches each of its fragments."""
        light = np.empty((3, len(sight.rays)), dtype=np.float32)
        empty = np.flatnonzero(~sight.hits.is_hit)
        light[:, empty] = self.sky.radiance(sight.rays.direction.take(empty, axis=1))
        light[:, sight.rows] = self._shader.shade(sight.fragments, sunlit, open_sky, moment.lamps)
        return light


def _still(tracks: ActorTracks) -> ActorTracks:
    """Tracks of one knot: shadows are cast by actors as they stand in the middle of the exposure."""
    if len(tracks.knots_ns) == 1:
        return tracks
    middle = slice(tracks.middle, tracks.middle + 1)
    return replace(
        tracks,
        knots_ns=tracks.knots_ns[middle],
        position_m=tracks.position_m[middle],
        rotation=tracks.rotation[middle],
        turn_rad=tracks.turn_rad[:0],
    )


def _headlamps_at(model: ActorModel) -> float:
    """How far ahead of its origin a model has headlamps; nan without."""
    mesh = model.phases[0]
    rows = mesh.material == MATERIAL_INDEX["headlight"]
    return float(mesh.vertices_m[mesh.triangles[rows], 0].max()) if rows.any() else float("nan")


def _dome(n: int) -> F32:
    """Points (3, n) spread over the unit sphere; added to a normal they make a cosine-weighted set of directions."""
    i = np.arange(n) + 0.5
    z = 1 - 2 * i / n
    turn = np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - z * z)
    # 0.98: a point opposite the normal would leave no direction at all. Neighbours in a block take far apart points.
    sphere = 0.98 * np.stack([flat * np.cos(turn), flat * np.sin(turn), z]).astype(np.float32)
    return sphere[:, (np.arange(n) * 7) % n]
