"""When a lost process is replaced, and when it is enough: decisions without any process in them."""

import threading
from collections import Counter, deque
from collections.abc import Callable

from perception.config.schema import SupervisionConfig
from perception.core.errors import EngineError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0


class RestartPolicy:
    """How long to wait before each restart. Progress (a finished frame, a quarantined message) wipes the slate clean.

    The first restart is at once, the next ones after 0.5, 1, 2 ... 8 s. `now_s`: a monotonic clock.
    """

    def __init__(self, config: SupervisionConfig, now_s: Callable[[], float]) -> None:
        self._config = config
        self._now_s = now_s
        self._recent: deque[float] = deque()
        self._lock = threading.Lock()

    def progress(self) -> None:
        with self._lock:
            self._recent.clear()

    def restart(self, role: str, what: str) -> float:
        """A process was lost: seconds to wait before its replacement starts. Raises EngineError when it is enough."""
        config, now_s = self._config, self._now_s()
        with self._lock:
            while self._recent and now_s - self._recent[0] > config.within_s:
                self._recent.popleft()
            if len(self._recent) >= config.max_restarts:
                raise EngineError(
                    f"the engine was restarted {len(self._recent)} times within {config.within_s:g} s and no frame was "
                    f"finished; the last loss: {role}: {what}"
                )
            self._recent.append(now_s)
            count = len(self._recent)
        return 0.0 if count == 1 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (count - 2))


class RestartCounts:
    """Which restarts the next frame has to report, and all of them."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._unreported: Counter[str] = Counter()

    def count(self, role: str) -> None:
        self.total[role] += 1
        self._unreported[role] += 1

    def take(self) -> dict[str, int]:
        """Restarts since the last call, by role."""
        taken, self._unreported = dict(sorted(self._unreported.items())), Counter()
        return taken
