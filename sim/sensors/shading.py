"""What a camera sees of surfaces: texture, sun, sky, gloss, lamps and the air in between."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import MATERIAL_INDEX, MATERIAL_NAMES, MATERIALS
from sim.sensors.lamps import Lamps
from sim.sensors.sky import Daylight, doubled
from sim.sensors.textures import TEXTURES, TextureAtlas
from sim.weather import Weather

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

_TEXTURE_OF: Final[dict[str, str]] = {
    "asphalt": "asphalt",
    "marking": "marking",
    "pavement": "pavement",
    "kerb": "concrete",
    "grass": "grass",
    "soil": "soil",
    "facade": "plaster",
    "bark": "bark",
    "foliage": "foliage",
    "concrete": "concrete",
    "cloth": "cloth",
    "tarpaulin": "cloth",
}
_TEXTURE_NAMES: Final = tuple(TEXTURES)
_TEXTURE: Final = np.array([_TEXTURE_NAMES.index(_TEXTURE_OF.get(m, "plain")) for m in MATERIAL_NAMES], dtype=np.uint8)
_BRICK, _PANELS = (np.uint8(_TEXTURE_NAMES.index(name)) for name in ("brick", "panels"))
_SPECULAR: Final = np.array([MATERIALS[m].specular for m in MATERIAL_NAMES], dtype=np.float32)
_IS_RETRO: Final = np.array([MATERIALS[m].retro for m in MATERIAL_NAMES])
_GETS_WET: Final = np.isin(MATERIAL_NAMES, ("asphalt", "marking", "pavement", "kerb", "concrete"))
_ROOM_BGR: Final = np.array([0.16, 0.30, 0.46], dtype=np.float32)
_BLURRED_M: Final = 0.3
_FACADE, _WINDOW, _FOLIAGE, _ASPHALT = (MATERIAL_INDEX[name] for name in ("facade", "window", "foliage", "asphalt"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fragments:
    """N seen surface points. direction: (3, N) from the camera. distance_m, footprint_m (side of a pixel there): (N,).

    position_m, normal: (3, N) world, the normal towards the camera. local_m, local_normal: (3, N) where textures cling:
    the actor's frame on actors, else the world. material: (N,). albedo: (3, N). glow: (N,) strength of own light.
    """

    direction: F32
    distance_m: F32
    footprint_m: F32
    position_m: F32
    normal: F32
    local_m: F32
    local_normal: F32
    material: U8
    albedo: F32
    glow: F32


class Shader:
    """Shades fragments for one weather; holds nothing that changes."""

    def __init__(self, weather: Weather, daylight: Daylight, atlas: TextureAtlas) -> None:
        self._weather = weather
        self._daylight = daylight
        self._atlas = atlas

    def shade(self, seen: Fragments, sunlit: F32, open_sky: F32, lamps: Lamps) -> F32:
        """Radiance (3, N) that reaches the camera; sunlit, open_sky: (N,) share of sun and sky that arrives."""
        albedo = seen.albedo * self._texture(seen)
        day = self._daylight
        facing = np.clip(day.sun_direction @ seen.normal, 0, 1)
        # Leaves let light through: they are never black on the far side.
        is_leaf = seen.material == _FOLIAGE
        facing = np.where(is_leaf, 0.35 + 0.65 * facing, facing) * sunlit
        light = day.ambient(seen.normal[2]) * open_sky
        light += day.sun[:, None] * facing
        lamps.add_to(
            light, seen.position_m, seen.normal, np.where(_IS_RETRO[seen.material], np.float32(6), np.float32(1))
        )
        if self._weather.is_wet:
            albedo *= np.where(_GETS_WET[seen.material], np.float32(0.5), np.float32(1))
        radiance = light
        radiance *= albedo
        self._add_gloss(radiance, seen, facing, open_sky)
        self._add_glow(radiance, seen)
        return self._through_air(radiance, seen)

    def _texture(self, seen: Fragments) -> F32:
        u, v = _surface_coordinates(seen.local_m, seen.local_normal)
        kind = _TEXTURE.take(seen.material)
        walls = np.flatnonzero(seen.material == _FACADE)
        blue, green, red = seen.albedo.take(walls, axis=1)
        kind[walls[red > 1.6 * blue]] = _BRICK
        kind[walls[(red < 1.12 * blue) & (green < 0.45)]] = _PANELS
        tint = np.ones((3, len(kind)), dtype=np.float32)
        # Paint has no texture, and far away every texture is its own mean.
        rows = np.flatnonzero((kind > 0) & (seen.footprint_m < _BLURRED_M))
        slant = np.abs(np.einsum("in,in->n", seen.direction, seen.normal)).take(rows)
        footprint = seen.footprint_m.take(rows) / np.sqrt(np.maximum(slant, np.float32(0.02)))
        tint[:, rows] = self._atlas.sample(kind.take(rows), u.take(rows), v.take(rows), footprint)
        # A second, slow pattern hides that the first repeats.
        ground = np.flatnonzero(seen.local_normal[2] > 0.7)
        tint[:, ground] *= self._atlas.sample_slow(u[ground], v[ground])
        return tint

    def _add_gloss(self, radiance: F32, seen: Fragments, facing: F32, open_sky: F32) -> None:
        """Mirror image of the sky, and the sun's highlight, on glossy and wet surfaces."""
        specular = _SPECULAR[seen.material]
        if self._weather.is_wet:
            wet = _GETS_WET[seen.material] & (seen.normal[2] > 0.7)
            specular = np.where(wet, np.float32(0.38), specular)
        rows = np.flatnonzero(specular > 0.05)
        if len(rows) == 0:
            return
        direction, normal = seen.direction.take(rows, axis=1), seen.normal.take(rows, axis=1)
        cosine = -np.einsum("in,in->n", direction, normal)
        mirrored = direction + 2 * cosine * normal
        grazing = 1 - np.clip(cosine, 0, 1)
        # Schlick's approximation of Fresnel's law (1994).
        fresnel = specular[rows] * (np.float32(0.06) + np.float32(0.94) * doubled(grazing, 2) * grazing)
        fresnel += np.float32(0.12) * (seen.material[rows] == _WINDOW)
        mirror = self._daylight.gradient(mirrored) * (np.float32(0.5) + np.float32(0.5) * open_sky[rows])
        toward_sun = np.clip(self._daylight.sun_direction @ mirrored, 0, 1)
        mirror += self._daylight.sun[:, None] * (np.float32(18.0) * doubled(toward_sun, 8) * (facing[rows] > 0))
        kept = radiance[:, rows]
        radiance[:, rows] = kept + (mirror - kept) * np.minimum(fresnel, np.float32(0.9))

    def _add_glow(self, radiance: F32, seen: Fragments) -> None:
        """Light of lamps and of lit rooms; a room's is warm whatever colour the pane has by day."""
        rows = np.flatnonzero(seen.glow)
        is_room = seen.material[rows] == _WINDOW
        color = np.where(is_room, _ROOM_BGR[:, None], seen.albedo.take(rows, axis=1))
        radiance[:, rows] += seen.glow[rows] * color

    def _through_air(self, radiance: F32, seen: Fragments) -> F32:
        clear = np.exp(np.float32(-self._weather.extinction_per_m) * seen.distance_m)
        air = self._daylight.horizon[:, None]
        return np.asarray(air + (radiance - air) * clear, dtype=np.float32)


def _surface_coordinates(position_m: F32, normal: F32) -> tuple[F32, F32]:
    """Metres along a surface (N,): the ground plane on level ground, along and up on walls."""
    is_level = np.abs(normal[2]) > 0.6
    flat = np.maximum(np.hypot(normal[0], normal[1]), np.float32(1e-6))
    along = (position_m[1] * normal[0] - position_m[0] * normal[1]) / flat
    return np.where(is_level, position_m[0], along), np.where(is_level, position_m[1], -position_m[2])
