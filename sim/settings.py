"""Settings of a simulated world. Frozen; an unknown field or a value outside its range is an error that names it."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from perception.config.schema import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=500)]
Density = Annotated[float, Field(ge=0, le=60)]


class TrafficSettings(Settings):
    vehicles_per_lane_km: Density = 9.0
    """Motor vehicles and bicycles on the whole map, for each kilometre of lane."""
    max_vehicles: Count = 90
    pedestrians_per_km: Density = 6.0
    """On the whole map, for each kilometre of pavement."""
    max_pedestrians: Count = 70
    truck_share: Share = 0.07
    """Of the vehicles: lorries, half of them with a trailer."""
    bus_share: Share = 0.05
    motorcycle_share: Share = 0.05
    bicycle_share: Share = 0.12
    """Of the vehicles, on roads open to bicycles."""
    parked_share: Share = 0.45
    """Of the places in parking strips, taken by parked cars."""
    step_s: Annotated[float, Field(ge=0.05, le=0.5)] = 0.1
    """Step of SUMO; states are interpolated between steps."""
    warmup_s: Annotated[float, Field(ge=0, le=600)] = 15.0
    """How long traffic flows before time zero."""


class ScenerySettings(Settings):
    buildings: bool = True
    trees_per_km: Density = 40.0
    """Beside roads, for each kilometre and side."""
    work_zones: Annotated[int, Field(ge=0, le=20)] = 3
    """Places with cones, barriers and a construction vehicle at the roadside."""


class EgoBody(Settings):
    """The ego's outline: it has no mesh, but others must see its size and collisions are judged by it."""

    length_m: PositiveFloat = 4.60
    width_m: PositiveFloat = 1.85
    height_m: PositiveFloat = 1.50
    front_m: PositiveFloat = 3.70
    """From the rear axle to the front bumper."""
    wheelbase_m: PositiveFloat = 2.75


class WorldSettings(Settings):
    map: str = "town_grid"
    """Name of a shipped map or path of a SUMO network or OpenDRIVE file."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    traffic: TrafficSettings = TrafficSettings()
    scenery: ScenerySettings = ScenerySettings()
    ego: EgoBody = EgoBody()
    route_length_m: Annotated[float, Field(ge=50, le=100_000)] = 10_000.0
    """Length of the ego's route; where SUMO drives, the ego goes on at random beyond its end."""
    actor_radius_m: Annotated[float, Field(ge=20, le=1000)] = 150.0
    """Actors further from the ego are not handed to sensors."""
    history_s: Annotated[float, Field(ge=2, le=60)] = 4.0
    """States are kept this long."""
