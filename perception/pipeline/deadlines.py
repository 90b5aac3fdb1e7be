"""When a result must be out, and what is done about one that is not: live, in a replay, and as it was decided
before.
"""

from enum import StrEnum
from typing import Protocol

from perception.config.schema import DeadlineConfig
from perception.core.bundle import SensorBundle


class DriveClock(Protocol):
    """What time it is in the drive, on its arrival clock."""

    def now_ns(self) -> int: ...

    def seconds_until(self, time_ns: int) -> float:
        """Wall time until then; negative once it has passed."""
        ...


class Fate(StrEnum):
    """What became of a bundle."""

    PUBLISHED = "published"
    DEGRADED = "degraded"
    """A result made of earlier ones went out in its place."""
    DEADLINE = "deadline"
    """Its result missed its deadline and was not published."""
    OVERLOAD = "overload"
    SKIPPED = "skipped"
    OUTAGE = "outage"


class Deadlines(Protocol):
    """Decides on each bundle that was dispatched."""

    def published_at(self, bundle: SensorBundle) -> int:
        """The drive's time at which its result goes out, if it does so now."""
        ...

    def degrade_in_s(self, bundle: SensorBundle, *, is_next: bool, is_ready: bool) -> float | None:
        """Wall time until a result made of earlier ones is to go out in its place (0 or less: now); None: never.

        is_next: every frame before it is done with. is_ready: so that its own result could go out at once.
        """
        ...

    def is_dropped(self, bundle: SensorBundle, published_at: int) -> bool:
        """Whether its result, which is ready, is not published."""
        ...

    def base(self, bundle: SensorBundle, steps: int) -> int:
        """After how many steps of the tracker a degraded result looks at the tracks; `steps` were made so far."""
        ...

    def slack_ns(self, bundle: SensorBundle, published_at: int) -> int: ...


class _Budget:
    def __init__(self, config: DeadlineConfig) -> None:
        self._handler = config.handler
        self._budget_ns = round(config.budget_ms * 1e6)

    def slack_ns(self, bundle: SensorBundle, published_at: int) -> int:
        return bundle.reference_ns + self._budget_ns - published_at

    def base(self, bundle: SensorBundle, steps: int) -> int:
        return steps


class ReplayDeadlines(_Budget):
    """Nothing is late where the source waits; slack is what the drive's own arrival times leave to compute in."""

    def published_at(self, bundle: SensorBundle) -> int:
        return bundle.closed_ns

    def degrade_in_s(self, bundle: SensorBundle, *, is_next: bool, is_ready: bool) -> float | None:
        return None

    def is_dropped(self, bundle: SensorBundle, published_at: int) -> bool:
        return False


class LiveDeadlines(_Budget):
    """By the clock."""

    def __init__(self, config: DeadlineConfig, clock: DriveClock) -> None:
        super().__init__(config)
        self._clock = clock

    def published_at(self, bundle: SensorBundle) -> int:
        return self._clock.now_ns()

    def degrade_in_s(self, bundle: SensorBundle, *, is_next: bool, is_ready: bool) -> float | None:
        if is_ready or self._handler != "publish_degraded":
            return None
        return self._clock.seconds_until(bundle.reference_ns + self._budget_ns)

    def is_dropped(self, bundle: SensorBundle, published_at: int) -> bool:
        return self._handler == "skip" and self.slack_ns(bundle, published_at) < 0
