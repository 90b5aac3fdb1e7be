"""Which beams come back, from where and how strong: range, angle, material, weather, edges, noise."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sim.rig import LidarConfig
from sim.scene import MATERIAL_INDEX, MATERIAL_NAMES, MATERIALS
from sim.weather import Weather

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

_REFLECTIVITY: Final = np.array([MATERIALS[name].reflectivity for name in MATERIAL_NAMES], dtype=np.float32)
_IS_RETRO: Final = np.array([MATERIALS[name].retro for name in MATERIAL_NAMES])
_IS_GLASS: Final = np.array([MATERIALS[name].is_glass for name in MATERIAL_NAMES])
_CAR_PAINT: Final = MATERIAL_INDEX["car_paint"]

_DIFFUSE_SCALE: Final = np.float32(100 / 255)
"""Intensity of a perfect diffuse reflector: spinning lidars keep the codes above 100 of 255 for retro-reflectors."""
_GRAIN: Final = np.float32(0.35)
"""Spread of the intensity of one material, as a power of e: dirt, texture and speckle."""
_SOFTNESS: Final = np.float32(0.25)
"""Width, in decades of received power, of the step from never to always seen."""
_EDGE_M: Final = (0.25, 4.0)
"""Steps in range between neighbours that may give a mixed point: less is a slope, more are two echoes."""
_MIXED_SHARE: Final = 0.12
_BACKSCATTER_M: Final = 12.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Echoes:
    """What comes back on N beams. distance_m, intensity: (N,) float32. is_received, is_mixed, is_airborne: (N,) bool.

    is_mixed: True where the footprint lay on two surfaces. is_airborne: True where fog or rain threw the beam back.
    """

    distance_m: F32
    intensity: F32
    is_received: Bool
    is_mixed: Bool
    is_airborne: Bool


class LidarPhysics:
    """Turns exact distances into echoes, for one lidar in one weather."""

    def __init__(self, config: LidarConfig, weather: Weather) -> None:
        self._config = config
        self._extinction = np.float32(weather.extinction_per_m)
        # Drops are thicker than droplets but far apart: rain takes and returns less light than fog of that visibility.
        self._backscatter = float(weather.extinction_per_m * 2.5) if weather.visibility_m < 500 else 0.0
        self._backscatter += weather.rain_mm_per_h * 2.0e-4
        self._wet_loss = 0.5 if weather.is_wet else 1.0
        self._threshold = np.float32(0.5 / config.diffuse_range_m**2)

    def receive(
        self,
        *,
        incidence: F32,
        distance_m: F32,
        is_hit: Bool,
        material: U8,
        albedo: F32,
        shape: tuple[int, int],
        rng: np.random.Generator,
    ) -> Echoes:
        """Echoes of beams in firing order; shape: columns and beams. incidence: (N,) cosine. albedo: (3, N)."""
        n = len(distance_m)
        reflectivity = self._reflectivity(material, albedo)
        mixed, is_mixed = self._mix_edges(np.where(is_hit, distance_m, np.float32(0)), is_hit, shape, rng)
        retro = is_hit & _IS_RETRO[material]
        # Rough surfaces fall off more slowly with the angle than Lambert's law: part of them faces the beam.
        facing = np.where(retro, np.float32(1), np.float32(0.25) * np.sqrt(incidence) + np.float32(0.75) * incidence)
        loss = np.exp(np.float32(-2) * self._extinction * mixed)
        gain = np.where(retro, np.float32(25), np.float32(1))
        power = gain * reflectivity * facing * loss / np.maximum(mixed * mixed, np.float32(0.25))
        decades = np.log10(np.maximum(power, np.float32(1e-12)) / self._threshold)
        chance = expit(decades / (_SOFTNESS / 4))
        lot = rng.random(n, dtype=np.float32)
        is_received = is_hit & ~_IS_GLASS[material] & (lot < chance * np.float32(1 - self._config.drop_share))
        intensity = self._intensity(reflectivity * facing * loss, retro, rng)
        noise = rng.standard_normal(n, dtype=np.float32) * np.float32(self._config.range_noise_m)
        distance = mixed + noise
        is_airborne = self._backscatter_into(distance, intensity, is_received, is_hit, rng)
        inside = (distance >= self._config.min_range_m) & (distance <= self._config.max_range_m)
        return Echoes(
            distance_m=distance,
            intensity=intensity,
            is_received=is_received & inside,
            is_mixed=is_mixed,
            is_airborne=is_airborne,
        )

    def _reflectivity(self, material: U8, albedo: F32) -> F32:
        """Near infrared is not the visible colour, but dark paint is dark there too."""
        value = _REFLECTIVITY[material]
        paint = np.flatnonzero(material == _CAR_PAINT)
        light = albedo[:, paint].mean(axis=0)
        value[paint] *= np.float32(0.12) + np.float32(1.5) * np.sqrt(light)
        wet = np.where(_IS_RETRO[material], np.float32(1), np.float32(self._wet_loss))
        return np.minimum(value * wet, np.float32(1))

    def _mix_edges(
        self, distance_m: F32, is_hit: Bool, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[F32, Bool]:
        """Where a beam's footprint straddles an edge it may report a range in between, as wide beams do."""
        grid, hit = distance_m.reshape(shape), is_hit.reshape(shape)
        following, follows = np.roll(grid, -1, axis=0), np.roll(hit, -1, axis=0)
        step = following - grid
        lot = rng.random(shape, dtype=np.float32)
        is_mixed = hit & follows & (np.abs(step) > _EDGE_M[0]) & (np.abs(step) < _EDGE_M[1]) & (lot < _MIXED_SHARE)
        share = lot * np.float32(1 / _MIXED_SHARE)
        return (grid + np.where(is_mixed, step * share, np.float32(0))).ravel(), is_mixed.ravel()

    def _intensity(self, diffuse: F32, retro: Bool, rng: np.random.Generator) -> F32:
        grain = np.exp(_GRAIN * rng.standard_normal(len(diffuse), dtype=np.float32))
        value = np.where(retro, np.float32(0.45) + np.float32(0.55) * diffuse, diffuse * _DIFFUSE_SCALE) * grain
        value = np.clip(value, 0, 1) ** np.float32(self._config.intensity_gamma)
        # Codes of eight bits, as the sensor sends them.
        coded: F32 = np.round(value * np.float32(255)) * np.float32(1 / 255)
        return coded

    def _backscatter_into(
        self, distance: F32, intensity: F32, is_received: Bool, is_hit: Bool, rng: np.random.Generator
    ) -> Bool:
        """Let fog and rain answer before the surface does, in place; returns where they did."""
        if self._backscatter == 0.0:
            return np.zeros(len(distance), dtype=bool)
        near = self._config.min_range_m + rng.exponential(_BACKSCATTER_M / 3, len(distance)).astype(np.float32)
        chance = 1 - np.exp(-self._backscatter * _BACKSCATTER_M)
        blocked: Bool = (rng.random(len(distance)) < chance) & (~is_hit | (near < distance)) & (near < _BACKSCATTER_M)
        distance[blocked], intensity[blocked] = near[blocked], np.float32(2 / 255)
        is_received |= blocked
        return blocked
