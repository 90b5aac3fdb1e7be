"""Every setting of an evaluation: drives, disturbances, routes. Frozen; an unknown field is an error."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from perception.config.load import load_settings
from perception.config.paths import find_config
from perception.config.schema import Milliseconds, Settings

Share = Annotated[float, Field(ge=0, le=1)]


class EvaluatedDrive(Settings):
    path: str
    """Whatever `perception replay` opens, `sim:` with a scenario and settings included."""
    conditions: tuple[str, ...] = ()
    """What is special about it (fog, motorway): scores are also given for each condition."""
    is_disturbed: bool = False
    """Play it again with each disturbance where robustness is asked for."""


class RobustnessPlan(Settings):
    """What is done to drives; each gives one row of the table."""

    drop_probability: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Of each camera image, lidar sweep and radar scan alike."""
    extrinsic_deg: tuple[PositiveFloat, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    """How far each camera and lidar is turned from where the rig says it sits."""
    frozen_s: tuple[PositiveFloat, ...] = (0.5,)
    """One modality at a time shows what it saw this long before, as if it were fresh."""
    delay_s: tuple[PositiveFloat, ...] = (0.2,)
    """One modality at a time arrives this much later."""
    lost_cameras: bool = True
    """One camera, drawn at random, is silent."""
    stride: PositiveInt = 2
    """Of the labelled times every so manieth is scored."""


class ClosedLoopPlan(Settings):
    """Routes that the ego drives by the service's own path hints."""

    maps: tuple[str, ...] = ()
    seeds: tuple[NonNegativeInt, ...] = ()
    route_length_m: PositiveFloat = 300.0
    duration_s: PositiveFloat | None = None
    """Simulated seconds after which a route is given up; None: as long as a slow driver needs."""


class EvaluationPlan(Settings):
    """What `perception eval` does."""

    drives: tuple[EvaluatedDrive, ...] = ()
    stride: PositiveInt = 1
    """Of the labelled times every so manieth is scored."""
    score_threshold: Share = 0.0
    """Detections below are left out. Average precision wants all of them, whatever the service publishes."""
    clear_score: Share = 0.3
    """The one score at which CLEAR tracking figures (MOTA, switches) are given besides AMOTA."""
    latencies_ms: tuple[Milliseconds, ...] = (0.0, 100.0, 200.0, 500.0)
    """Besides the measured latency, streaming accuracy is given for a service that takes so long."""
    seed: NonNegativeInt = 0
    """Of the disturbances."""
    robustness: RobustnessPlan = RobustnessPlan()
    closed_loop: ClosedLoopPlan = ClosedLoopPlan()


def load_plan(name_or_path: str) -> EvaluationPlan:
    """A shipped plan (`configs/evaluation/*.yaml`) or a file. Raises ConfigError where it is unknown or wrong."""
    return load_settings(EvaluationPlan, find_config("evaluation", name_or_path))
