"""What a camera sees of surfaces: texture, sun, sky, gloss, lamps and the air in between."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.scene import MATERIAL_NAMES, MATERIALS
from sim.sensors.lamps import Lamps
from sim.sensors.shading_loop import lay_textures, shade_points, tint_points, vary_ground
from sim.sensors.sky import Daylight
from sim.sensors.textures import TEXTURES, TextureAtlas
from sim.weather import Weather

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

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
_IS_RETRO: Final = np.array([MATERIALS[m].retro for m in MATERIAL_NAMES])
_GETS_WET: Final = ("asphalt", "marking", "pavement", "kerb", "concrete")
_LOOKS: Final = np.array(
    [
        (
            list(TEXTURES).index(_TEXTURE_OF.get(name, "plain")),
            MATERIALS[name].specular,
            name in _GETS_WET,
            name == "foliage",
            name == "facade",
            name == "window",
        )
        for name in MATERIAL_NAMES
    ],
    dtype=np.float32,
)
_ROOM_BGR: Final = np.array([0.16, 0.30, 0.46], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fragments:
    """M seen surface points. point: (19, M) float32 as `fill_surface_points` lays them out. footprint_m: (M,) side of
    a pixel there. material: (M,). glow: (M,) strength of own light."""

    point: F32
    footprint_m: F32
    material: U8
    glow: F32

    @property
    def distance_m(self) -> F32:
        """(M,) from the camera."""
        distance: F32 = self.point[15]
        return distance

    @property
    def position_m(self) -> F32:
        """(3, M) in the world."""
        return self.point[3:6]

    @property
    def normal(self) -> F32:
        """(3, M) in the world, towards the camera."""
        return self.point[6:9]


class Shader:
    """Shades fragments for one weather; holds nothing that changes."""

    def __init__(self, weather: Weather, daylight: Daylight, atlas: TextureAtlas) -> None:
        self._atlas = atlas
        self._light = np.stack(
            [
                daylight.sun_direction,
                daylight.sun,
                daylight.zenith,
                daylight.horizon,
                daylight.ground,
                0.4 * daylight.zenith + 0.6 * daylight.horizon,
                _ROOM_BGR,
                np.array([weather.extinction_per_m, weather.is_wet, 0.0]),
            ]
        ).astype(np.float32)

    def shade(self, seen: Fragments, sunlit: F32, open_sky: F32, lamps: Lamps) -> F32:
        """Radiance (3, M) that reaches the camera; sunlit, open_sky: (M,) share of sun and sky that arrives."""
        radiance = np.empty((3, len(seen.material)), dtype=np.float32)
        shade_points(
            seen.point,
            seen.material,
            sunlit,
            open_sky,
            self._lamp_light(seen, lamps),
            seen.glow,
            self._tint(seen),
            _LOOKS,
            self._light,
            radiance,
        )
        return radiance

    def _tint(self, seen: Fragments) -> F32:
        """(3, M) what textures make of colours."""
        u, v = np.empty((2, len(seen.material)), dtype=np.float32)
        texture = np.empty_like(seen.material)
        tint = np.empty((3, len(u)), dtype=np.float32)
        atlas = self._atlas
        lay_textures(seen.point, seen.material, _LOOKS, u, v, texture)
        tint_points(seen.point, texture, u, v, seen.footprint_m, atlas.image, atlas.kinds, atlas.levels, tint)
        vary_ground(seen.point, u, v, atlas.slow, tint)
        return tint

    def _lamp_light(self, seen: Fragments, lamps: Lamps) -> F32:
        """(3, M), or (3, 0) where no lamp shines."""
        shining = lamps.beam_m.shape[1] + lamps.street_m.shape[1] > 0
        light = np.zeros((3, len(seen.material) if shining else 0), dtype=np.float32)
        if shining:
            gain = np.where(_IS_RETRO[seen.material], np.float32(6), np.float32(1))
            lamps.add_to(light, seen.position_m, seen.normal, gain)
        return light
