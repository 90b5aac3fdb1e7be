"""The light of the sky: where it comes from, how strong it is, what a camera sees up there.

Light is linear blue, green, red; 1 is what a white wall in full sun sends back.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.sensors.textures import noise, sample_image
from sim.weather import Weather

F32 = NDArray[np.float32]

CLOUD_SIDE = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Daylight:
    """sun: (3,) float32 strength on a surface facing it. zenith, horizon, ground: (3,) float32 radiance.

    sun_direction: (3,) float32, to the sun. exposure: gain that shows this light at middle brightness.
    """

    sun_direction: F32
    sun: F32
    zenith: F32
    horizon: F32
    ground: F32
    exposure: float

    @classmethod
    def of(cls, weather: Weather) -> "Daylight":
        """Day with sun or clouds, a low red sun, or night with the glow of a town."""
        sine = float(np.sin(weather.sun_elevation_rad))
        day = float(np.clip((sine + 0.10) / 0.35, 0.0, 1.0)) ** 1.5
        low = float(np.clip(1.0 - sine / 0.35, 0.0, 1.0))
        gray = max(weather.cloud_cover, 0.0) ** 2
        sun_color = _mix((0.82, 0.95, 1.0), (0.28, 0.58, 1.0), low)
        direct = 1.25 * max(0.0, min(1.0, sine / 0.12)) * (1.0 - gray) * (1.0 - 0.55 * low)
        zenith = _mix(_mix((0.60, 0.40, 0.26), (0.42, 0.28, 0.22), low), (0.60, 0.57, 0.55), gray) * day
        horizon = _mix(_mix((0.88, 0.78, 0.68), (0.42, 0.60, 0.95), low), (0.78, 0.76, 0.74), gray) * day
        night = np.array([0.012, 0.008, 0.006])
        glow = np.array([0.014, 0.018, 0.024])
        zenith, horizon = zenith + night * (1 - day), horizon + glow * (1 - day)
        # Fog scatters the light of the whole sky: it looks alike everywhere.
        veil = float(np.exp(-weather.visibility_m / 600.0))
        zenith = _mix(zenith, (zenith + horizon) / 2, veil)
        horizon = _mix(horizon, (zenith + horizon) / 2, veil)
        ground = 0.16 * (zenith + horizon) / 2 + 0.10 * direct * max(sine, 0.0) * sun_color
        mean = float(np.mean(0.6 * direct * max(sine, 0.1) * sun_color + 0.6 * (zenith + horizon) / 2))
        return cls(
            sun_direction=weather.sun_direction.astype(np.float32),
            sun=(direct * sun_color).astype(np.float32),
            zenith=zenith.astype(np.float32),
            horizon=horizon.astype(np.float32),
            ground=ground.astype(np.float32),
            exposure=0.60 / max(mean, 0.11),
        )

    @property
    def has_shadows(self) -> bool:
        return float(self.sun.max()) > 0.02

    def gradient(self, direction: F32) -> F32:
        """Radiance (3, N) without clouds along unit directions (3, N); below the horizon the ground's."""
        up = direction[2]
        height = np.clip(up, 0, 1)
        share = 1 - doubled(1 - height, 2)
        low = np.clip(-up * 8, 0, 1)
        light = self.horizon[:, None] + (self.zenith - self.horizon)[:, None] * share
        light += (self.ground[:, None] - light) * low
        return np.asarray(light, dtype=np.float32)

    def ambient(self, up: F32) -> F32:
        """Light (3, N) on surfaces whose normals point up by `up` (N,), from sky above and ground below."""
        sky = (0.4 * self.zenith + 0.6 * self.horizon)[:, None]
        share = 0.5 + 0.5 * up
        return np.asarray(sky * share + self.ground[:, None] * (1 - share), dtype=np.float32)


def doubled(values: F32, times: int) -> F32:
    """Values (N,) to the power of 2 ** times: repeated squaring is far cheaper than a general power."""
    for _ in range(times):
        values = values * values
    return values


class Sky:
    """What a camera sees where nothing stands in the way: gradient, clouds, the sun."""

    def __init__(self, weather: Weather, rng: np.random.Generator) -> None:
        self.daylight = Daylight.of(weather)
        self._cover = weather.cloud_cover
        self._has_clouds = weather.cloud_cover > 0.02 and weather.visibility_m > 500
        billows = sum(noise(rng, sigma, side=CLOUD_SIDE) * sigma**0.6 for sigma in (2.0, 5.0, 12.0, 30.0))
        billows = np.asarray(billows, dtype=np.float32)
        rank = (billows - billows.mean()) / billows.std()
        density = np.clip((rank + 3.2 * weather.cloud_cover - 1.6) * 0.9, 0, 1)
        self._clouds = np.clip(density * 255, 0, 255).astype(np.uint8)[:, :, None]
        self._texture = np.clip(128 + 26 * cv2.blur(rank, (5, 5)), 0, 255).astype(np.uint8)[:, :, None]

    def radiance(self, direction: F32) -> F32:
        """Radiance (3, N) along unit directions (3, N)."""
        light = self.daylight.gradient(direction)
        facing = np.clip(self.daylight.sun_direction @ direction, 0, 1)
        if self._has_clouds:
            light = self._with_clouds(light, direction, facing)
        sun = self.daylight.sun
        wide = doubled(facing, 3)
        halo = np.float32(0.2) * wide + np.float32(0.5) * doubled(wide, 4) + np.float32(12.0) * (facing > 0.99995)
        return np.asarray(light + sun[:, None] * halo, dtype=np.float32)

    def _with_clouds(self, light: F32, direction: F32, facing: F32) -> F32:
        up = np.maximum(direction[2], np.float32(0.03))
        # A layer at 1500 m above; the texture repeats every 6 km, which nobody sees from below.
        x = (direction[0] / up * np.float32(CLOUD_SIDE / 4)) % CLOUD_SIDE
        y = (direction[1] / up * np.float32(CLOUD_SIDE / 4)) % CLOUD_SIDE
        density = sample_image(self._clouds, x, y)[0].astype(np.float32) * np.float32(1 / 255)
        density *= np.clip((direction[2] - np.float32(0.02)) * 9, 0, 1)
        shape = sample_image(self._texture, x, y)[0].astype(np.float32) * np.float32(1 / 128)
        lit = self.daylight.sun * (0.55 + 0.45 * (1 - self._cover)) * 0.55
        cloud = (0.55 * self.daylight.horizon + 0.45 * self.daylight.zenith)[:, None] * shape + lit[:, None] * (
            shape * (np.float32(0.75) + np.float32(0.35) * facing)
        )
        return np.asarray(light + (cloud - light) * density, dtype=np.float32)


def _mix(one: ArrayLike, other: ArrayLike, share: float) -> NDArray[np.float64]:
    return (1 - share) * np.asarray(one, dtype=np.float64) + share * np.asarray(other, dtype=np.float64)
