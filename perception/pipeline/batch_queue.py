"""Which work goes into the next batch: of one stage, round robin over the sessions, in order within each."""

from collections import deque
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

from perception.config.schema import BatchingConfig

FUSION: Final = "fusion"
STAGES: Final = ("camera", "lidar", "radar", FUSION)


class Work(Protocol):
    """What waits. stage: one of `STAGES`. session: whose it is. queued_ns: since when it waits, monotonic."""

    @property
    def stage(self) -> str: ...

    @property
    def session(self) -> Hashable: ...

    @property
    def queued_ns(self) -> int: ...

    @property
    def is_ready(self) -> bool:
        """Whether everything that it needs is there; what stands behind it in its session and stage waits with it."""
        ...


W = TypeVar("W", bound=Work)


class BatchQueue(Generic[W]):
    """Holds work until it makes a batch. Not thread-safe; time is passed in.

    A stage is due when it has a full batch, when every open session has work in it, or when its oldest ready work has
    waited `max_wait_ms`. Of the stages that are due the one goes first whose oldest work waits longest.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self._limit = {stage: config.max_images if stage == "camera" else config.max_bundles for stage in STAGES}
        self._wait_ns = round(config.max_wait_ms * 1e6)
        # By stage; sessions in the order in which their turn comes.
        self._waiting: dict[str, dict[Hashable, deque[W]]] = {stage: {} for stage in STAGES}

    def open(self, session: Hashable) -> None:
        for lines in self._waiting.values():
            lines[session] = deque()

    def close(self, session: Hashable) -> list[W]:
        """Take a session away; what of its work was still waiting."""
        return [work for lines in self._waiting.values() for work in lines.pop(session, ())]

    @property
    def sessions(self) -> frozenset[Hashable]:
        """Those that are open."""
        return frozenset(self._waiting[FUSION])

    def put(self, work: W) -> None:
        self._waiting[work.stage][work.session].append(work)

    def queued(self, session: Hashable) -> int:
        """Requests of a session that wait to be encoded."""
        return sum(len(lines.get(session, ())) for stage, lines in self._waiting.items() if stage != FUSION)

    def take(self, now_ns: int) -> list[W]:
        """The next batch, empty while none is due."""
        due = [(oldest, stage) for stage, oldest in self._oldest().items() if self._is_due(stage, oldest, now_ns)]
        return self._batch(min(due)[1]) if due else []

    def due_in_s(self, now_ns: int) -> float | None:
        """How long until a batch is due if nothing joins; None while nothing is ready."""
        oldest = self._oldest().values()
        return max(0, min(oldest) + self._wait_ns - now_ns) / 1e9 if oldest else None

    def _oldest(self) -> dict[str, int]:
        """Since when the oldest ready work of each stage waits, where there is any."""
        found = {}
        for stage, lines in self._waiting.items():
            since = [line[0].queued_ns for line in lines.values() if line and line[0].is_ready]
            if since:
                found[stage] = min(since)
        return found

    def _is_due(self, stage: str, oldest_ns: int, now_ns: int) -> bool:
        if now_ns - oldest_ns >= self._wait_ns:
            return True
        ready = [len(_ready(line)) for line in self._waiting[stage].values()]
        return all(ready) or sum(ready) >= self._limit[stage]

    def _batch(self, stage: str) -> list[W]:
        """One from each session in turn, again and again; who was served goes to the end of the line."""
        lines, batch = self._waiting[stage], list[W]()
        turns = deque(lines)
        while turns and len(batch) < self._limit[stage]:
            session = turns.popleft()
            line = lines[session]
            if line and line[0].is_ready:
                batch.append(line.popleft())
                turns.append(session)
                lines[session] = lines.pop(session)
        return batch


def _ready(line: deque[W]) -> list[W]:
    """The work at the head of a line that is ready."""
    ready = []
    for work in line:
        if not work.is_ready:
            break
        ready.append(work)
    return ready
