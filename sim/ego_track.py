"""Where the ego was: knots of pose and motion, a smooth curve through them."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EgoKnot:
    """state: (3,) x, y of the rear axle and yaw (unwrapped). rate: (3,) a second, in the world."""

    time_ns: int
    state: F64
    rate: F64


class EgoTrack:
    """Cubic Hermite curves between knots, so that velocity is the derivative of position at any time."""

    def __init__(self, history_ns: int) -> None:
        self._history_ns = history_ns
        self._knots: deque[EgoKnot] = deque()

    @property
    def last_ns(self) -> int:
        """Time of the newest knot. Raises ValueError while there is none."""
        if not self._knots:
            raise ValueError("the ego has no pose yet")
        return self._knots[-1].time_ns

    @property
    def last(self) -> EgoKnot:
        return self._knots[-1]

    def add(self, knot: EgoKnot) -> None:
        """Continue the track. Knots from the same time on are replaced: the driver knows better than the plan did."""
        while self._knots and self._knots[-1].time_ns >= knot.time_ns:
            self._knots.pop()
        self._knots.append(knot)
        while self._knots[1].time_ns < knot.time_ns - self._history_ns if len(self._knots) > 2 else False:
            self._knots.popleft()

    def at(self, time_ns: int) -> tuple[F64, F64]:
        """State (3,) and rate (3,). Raises ValueError outside the track."""
        if not self._knots or not self._knots[0].time_ns <= time_ns <= self._knots[-1].time_ns:
            raise ValueError(f"no ego pose at {time_ns} ns: the world knows {self._span()}")
        after = next(index for index, knot in enumerate(self._knots) if knot.time_ns >= time_ns)
        b = self._knots[after]
        if b.time_ns == time_ns:
            return b.state, b.rate
        a = self._knots[after - 1]
        step = (b.time_ns - a.time_ns) / 1e9
        u = (time_ns - a.time_ns) / 1e9 / step
        p0, p1, m0, m1 = a.state, b.state, a.rate * step, b.rate * step
        c, d = 3 * (p1 - p0) - 2 * m0 - m1, 2 * (p0 - p1) + m0 + m1
        return p0 + u * (m0 + u * (c + u * d)), (m0 + u * (2 * c + 3 * u * d)) / step

    def _span(self) -> str:
        return f"{self._knots[0].time_ns} to {self._knots[-1].time_ns} ns" if self._knots else "none"
