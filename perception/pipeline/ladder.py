"""The ladder of degradations: what a service that is too slow leaves out, and when it goes up or down a rung."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from perception.config.schema import LadderConfig

MAX_PATIENCE = 64
"""Going down takes so many times `calm_frames` at most, however often it proved too early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What is left at one level. cameras: how many, None for all. is_small: the small model. keep_one_of: frames."""

    level: int = 0
    cameras: int | None = None
    is_small: bool = False
    keep_one_of: int = 1

    @property
    def text(self) -> str:
        """Such as `2 cameras, small model, 1 of 2 frames`; empty where nothing is left out."""
        parts = [] if self.cameras is None else [f"{self.cameras} camera{'' if self.cameras == 1 else 's'}"]
        parts += ["small model"] if self.is_small else []
        parts += [f"1 of {self.keep_one_of} frames"] if self.keep_one_of > 1 else []
        return ", ".join(parts)


FULL = Rung()


def rungs_of(config: LadderConfig) -> tuple[Rung, ...]:
    """Every level, the first with nothing left out; each leaves out what the one before it does, and more."""

    def parts() -> Iterator[tuple[int | None, bool, int]]:
        yield None, False, 1
        for cameras in config.cameras:
            yield cameras, False, 1
        fewest = config.cameras[-1] if config.cameras else None
        if config.small_model is not None:
            yield fewest, True, 1
        for keep_one_of in config.skip:
            yield fewest, config.small_model is not None, keep_one_of

    return tuple(
        Rung(level=level, cameras=cameras, is_small=is_small, keep_one_of=keep)
        for level, (cameras, is_small, keep) in enumerate(parts())
    )


class Ladder:
    """Decides on the level from one frame after the other. Deterministic; from two threads.

    `slow_frames` slow ones in a row lead one rung up, `calm_frames` with headroom one down; a frame that is neither
    ends both rows. Where going down was followed by going up again before as many frames had passed as going down
    took, going down takes twice as many from then on (`MAX_PATIENCE` times at most), and as few as at first after
    having stayed down for so long: under a steady load the changes die away.
    """

    def __init__(self, config: LadderConfig) -> None:
        self._config = config
        self._rungs = rungs_of(config)
        self._lock = threading.Lock()
        self._level = 0
        self._slow = self._calm = 0
        self._patience = 1
        self._since_down: int | None = None
        self._reason = ""

    @property
    def rung(self) -> Rung:
        with self._lock:
            return self._rungs[self._level]

    @property
    def state(self) -> tuple[Rung, str]:
        """The rung, and why the last change was made (empty before the first)."""
        with self._lock:
            return self._rungs[self._level], self._reason

    def observe(self, *, slack_ns: int, budget_ns: int, is_overloaded: bool) -> None:
        """One more frame was done. slack_ns: left at its deadline; is_overloaded: older frames lost their turn to
        it."""
        with self._lock:
            if len(self._rungs) == 1:
                return
            if self._since_down is not None:
                self._since_down += 1
                if self._since_down > self._config.calm_frames * MAX_PATIENCE:
                    self._since_down, self._patience = None, 1
            if is_overloaded or slack_ns < 0:
                self._slow, self._calm = self._slow + 1, 0
            elif slack_ns >= self._config.headroom * budget_ns:
                self._slow, self._calm = 0, self._calm + 1
            else:
                self._slow = self._calm = 0
            if self._slow >= self._config.slow_frames:
                self._go_up()
            elif self._calm >= self._config.calm_frames * self._patience:
                self._go_down()

    def _go_up(self) -> None:
        slow, self._slow = self._slow, 0
        if self._level + 1 == len(self._rungs):
            return
        soon = max(self._config.calm_frames, self._config.slow_frames) * self._patience
        if self._since_down is not None and self._since_down <= soon:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._since_down = None
        self._level += 1
        self._reason = f"up to {self._level}: {slow} slow frames in a row"

    def _go_down(self) -> None:
        calm, self._calm = self._calm, 0
        if self._level == 0:
            return
        self._level -= 1
        self._since_down = 0
        self._reason = f"down to {self._level}: {calm} frames in a row with headroom"
