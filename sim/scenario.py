"""A scenario: which world is driven, with which sensors, by whom, in what weather and with which faults."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from perception.config.load import load_settings
from perception.config.paths import config_dir, find_config
from perception.config.schema import Settings
from sim.faults import AnyFault, FaultPlan
from sim.maps.catalog import map_names
from sim.settings import EgoBody, ScenerySettings, TrafficSettings, WorldSettings
from sim.weather import WeatherConfig

DriverName = Literal["oracle", "hints", "constant"]


class StartConfig(Settings):
    """Where a closed-loop ego begins beside its path, to record how it comes back."""

    offset_m: Annotated[float, Field(ge=-3, le=3)] = 0.0
    """Sideways from the middle of the lane, left positive."""
    heading_rad: Annotated[float, Field(ge=-0.5, le=0.5)] = 0.0
    speed_mps: Annotated[float, Field(ge=0, le=40)] | None = None
    """None: with the traffic, as fast as limits and whoever is ahead allow."""


class ScenarioConfig(Settings):
    """Everything that decides what happens; the same scenario gives the same bytes."""

    map: str = "town_grid"
    """A shipped map, or the path of a SUMO network or OpenDRIVE file."""
    rig: str = "tiny"
    """A shipped rig or the path of a .yaml file."""
    rig_variation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far mounts, lenses and noise are moved at random, by the seed: the rigs of other vehicles, to learn from."""
    cameras: bool = True
    """False: the rig's cameras are left out, so that a drive is made several times as fast: to learn ways from, say."""
    keep_every: Annotated[int, Field(ge=1, le=100)] = 1
    """Sensors capture at every n-th turn of the lidar only: fewer and more different frames, to learn from."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    duration_s: PositiveFloat = 20.0
    loop: Literal["open", "lockstep", "async"] = "open"
    """`open`: the traffic simulation drives the ego. `lockstep`: the world waits for each result. `async`: a result
    takes effect after its measured latency."""
    latency_ms: Annotated[float, Field(ge=0, le=5000)] | None = None
    """For `async`: this latency in place of the measured one, so that a drive can be repeated."""
    driver: DriverName = "oracle"
    """Who drives in the closed loop."""
    start: StartConfig = StartConfig()
    weather: WeatherConfig = WeatherConfig()
    traffic: TrafficSettings = TrafficSettings()
    scenery: ScenerySettings = ScenerySettings()
    ego: EgoBody = EgoBody()
    route_length_m: Annotated[float, Field(ge=50, le=100_000)] = 10_000.0
    faults: tuple[AnyFault, ...] = ()

    @field_validator("map")
    @classmethod
    def _known_map(cls, name: str) -> str:
        if name not in map_names() and not name.endswith((".xml", ".xml.gz", ".xodr")):
            raise ValueError(f"no such map; shipped: {', '.join(map_names())}; or a .net.xml or .xodr file")
        return name

    @property
    def fault_plan(self) -> FaultPlan:
        return FaultPlan(faults=self.faults)

    @property
    def world(self) -> WorldSettings:
        return WorldSettings(
            map=self.map,
            seed=self.seed,
            traffic=self.traffic,
            scenery=self.scenery,
            ego=self.ego,
            route_length_m=self.route_length_m,
        )


def scenario_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (config_dir() / "scenarios").glob("*.yaml")))


def load_scenario(name_or_path: str | None = None, overrides: Sequence[str] = ()) -> ScenarioConfig:
    """A shipped scenario, a .yaml file, or the defaults; then `overrides` (`a.b=c`).

    Raises ConfigError that names the field and what it may be.
    """
    path = find_config("scenarios", name_or_path) if name_or_path else None
    return load_settings(ScenarioConfig, path, overrides)
