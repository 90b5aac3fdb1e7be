"""Every setting of a fleet replay. Frozen; an unknown field is an error."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from perception.config.schema import Settings


class FleetConfig(Settings):
    """How many drives are played at once, by whom, and what becomes of those that fail."""

    workers: NonNegativeInt = 0
    """Drives played at once; 0: as many as the cluster has room for."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of torch, and cores reserved, for each worker (engine `own`) or each shared engine."""
    engine: Literal["own", "shared"] = "own"
    """`own`: each worker runs its own model. `shared`: actors hold the models, one on each GPU, and put the work of
    several drives together; the workers read, decode and track."""
    engines: NonNegativeInt = 0
    """Shared engines; 0: one for each GPU of the cluster when it starts, one without any."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a drive is begun before it counts as failed. A drive that cannot be read fails at once."""
    max_drive_gb: PositiveFloat = 50.0
    """A remote drive larger than this is refused. A worker holds one fetched drive at a time."""


class BaselineConfig(Settings):
    """When a fleet counts as worse than another."""

    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How far mAP, NDS or a class's AP may fall, on average over the drives."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the interval that must lie below zero for a fall to count as real."""
    resamples: PositiveInt = 2000
    """Of the drives, for that interval."""
    seed: NonNegativeInt = 0
