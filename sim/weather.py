"""Weather and light: a few kinds with seeded variety, or every figure set by hand."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.config.schema import Settings

F64 = NDArray[np.float64]

WeatherKind = Literal["clear", "cloudy", "rain", "fog", "dusk", "night"]

KOSCHMIEDER: Final = 3.912
"""Extinction times visibility: where contrast has fallen to 2 % (Koschmieder, 1924)."""

DARK_ELEVATION_RAD: Final = np.radians(2.0)
"""Drivers and street lighting switch on when the sun is lower than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """sun_azimuth_rad: from east, counter-clockwise. cloud_cover: 0 (none) to 1 (overcast: no shadows)."""

    kind: WeatherKind
    sun_azimuth_rad: float
    sun_elevation_rad: float
    cloud_cover: float
    rain_mm_per_h: float
    visibility_m: float

    @property
    def sun_direction(self) -> F64:
        """(3,) unit vector from the ground to the sun, in the world frame."""
        flat = np.cos(self.sun_elevation_rad)
        return np.array(
            [
                flat * np.cos(self.sun_azimuth_rad),
                flat * np.sin(self.sun_azimuth_rad),
                np.sin(self.sun_elevation_rad),
            ]
        )

    @property
    def extinction_per_m(self) -> float:
        """Share of light lost per metre, for light and lidar alike."""
        return KOSCHMIEDER / self.visibility_m

    @property
    def is_dark(self) -> bool:
        return bool(self.sun_elevation_rad < DARK_ELEVATION_RAD)

    @property
    def is_wet(self) -> bool:
        return self.rain_mm_per_h > 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Ranges that a kind of weather is drawn from."""

    elevation_deg: tuple[float, float]
    cloud_cover: tuple[float, float]
    rain_mm_per_h: tuple[float, float]
    visibility_m: tuple[float, float]


_KINDS: Final[dict[WeatherKind, _Kind]] = {
    "clear": _Kind((25.0, 60.0), (0.0, 0.3), (0.0, 0.0), (15_000.0, 30_000.0)),
    "cloudy": _Kind((25.0, 60.0), (0.9, 1.0), (0.0, 0.0), (8_000.0, 15_000.0)),
    "rain": _Kind((15.0, 45.0), (1.0, 1.0), (2.0, 25.0), (800.0, 4_000.0)),
    "fog": _Kind((15.0, 40.0), (1.0, 1.0), (0.0, 0.0), (60.0, 250.0)),
    "dusk": _Kind((2.5, 7.0), (0.2, 0.6), (0.0, 0.0), (10_000.0, 20_000.0)),
    "night": _Kind((-40.0, -15.0), (0.2, 1.0), (0.0, 0.0), (8_000.0, 20_000.0)),
}


class WeatherConfig(Settings):
    """What a scenario asks for: a kind, and any figure it wants to set itself; the rest is drawn from the seed."""

    kind: WeatherKind = "clear"
    sun_azimuth_deg: Annotated[float, Field(ge=-360, le=360)] | None = None
    sun_elevation_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    cloud_cover: Annotated[float, Field(ge=0, le=1)] | None = None
    rain_mm_per_h: Annotated[float, Field(ge=0, le=150)] | None = None
    visibility_m: Annotated[float, Field(ge=10, le=100_000)] | None = None

    def resolve(self, rng: np.random.Generator) -> Weather:
        """The weather of one drive; the same generator state gives the same weather."""
        kind = _KINDS[self.kind]
        azimuth = _either(self.sun_azimuth_deg, rng, (-180.0, 180.0))
        elevation = _either(self.sun_elevation_deg, rng, kind.elevation_deg)
        return Weather(
            kind=self.kind,
            sun_azimuth_rad=float(np.radians(azimuth)),
            sun_elevation_rad=float(np.radians(elevation)),
            cloud_cover=_either(self.cloud_cover, rng, kind.cloud_cover),
            rain_mm_per_h=_either(self.rain_mm_per_h, rng, kind.rain_mm_per_h),
            visibility_m=_either(self.visibility_m, rng, kind.visibility_m),
        )


def _either(value: float | None, rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    # Drawn even where it is not used: setting one figure must not change the others.
    drawn = float(rng.uniform(*bounds))
    return drawn if value is None else value
