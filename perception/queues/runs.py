"""Which items of a queue a consumer is given, and how many it has lost: a matter of run and sequence alone."""

from collections import OrderedDict
from typing import Protocol, TypeVar

from perception.core.ports import QueueItem, Start
from perception.core.results import EndOfRun

REMEMBERED_RUNS = 64
REMEMBERED_ITEMS = 10_000

Run = tuple[str, str]
Key = TypeVar("Key")
Value = TypeVar("Value")


class Tracker(Protocol):
    """gaps: results known to be lost so far. finished: no further item will be accepted."""

    gaps: int
    finished: bool

    def accept(self, item: QueueItem) -> bool:
        """Whether the consumer gets this item."""
        ...


class RunTracker:
    """Accepts each item of a run once and in order, and counts what is missing between them.

    Without `follow` the first run met is the only one: items of others are refused, and the run is `finished` after
    its `EndOfRun`. With `follow` every run is accepted. `start` says where the first run begins: `earliest` at
    sequence 0, N at N (what lies before is refused, not lost), `latest` wherever it is met.
    """

    def __init__(self, start: Start, follow: bool = False) -> None:
        self.gaps = 0
        self.finished = False
        self._start = start
        self._follow = follow
        self._expected: OrderedDict[Run, int] = OrderedDict()
        self._ended: OrderedDict[Run, None] = OrderedDict()

    def accept(self, item: QueueItem) -> bool:
        """Whether the consumer gets this item. Items of one run must come in the order in which they were sent."""
        run = (item.drive_id, item.run_id)
        if self.finished or run in self._ended or not (self._follow or run in self._expected or not self._expected):
            return False
        sequence = item.count if isinstance(item, EndOfRun) else item.sequence
        expected = self._expected.get(run)
        if expected is None:
            expected = self._begin(sequence)
            _remember(self._expected, run, expected)
        if isinstance(item, EndOfRun):
            self.gaps += max(0, sequence - expected)
            del self._expected[run]
            _remember(self._ended, run, None)
            self.finished = not self._follow
            return True
        if sequence < expected:
            return False
        self.gaps += sequence - expected
        self._expected[run] = sequence + 1
        return True

    def _begin(self, sequence: int) -> int:
        if self._expected or self._ended:
            return 0
        if self._start == "latest":
            return sequence
        return self._start if isinstance(self._start, int) else 0


class GroupTracker:
    """Accepts what a member of a group is handed out, in whatever order, but nothing twice.

    A member sees a part of each run, begins in the middle, and gets late what another has left, so that nothing can be
    said of gaps. Items of every run are accepted: what a member refused would be lost to the group. Without `follow` it
    is `finished` after the first end of a run.
    """

    def __init__(self, follow: bool = False) -> None:
        self.gaps = 0
        self.finished = False
        self._follow = follow
        self._seen: OrderedDict[tuple[Run, int | None], None] = OrderedDict()

    def accept(self, item: QueueItem) -> bool:
        key = (item.drive_id, item.run_id), None if isinstance(item, EndOfRun) else item.sequence
        if self.finished or key in self._seen:
            return False
        _remember(self._seen, key, None, REMEMBERED_ITEMS)
        self.finished = isinstance(item, EndOfRun) and not self._follow
        return True


def _remember(known: OrderedDict[Key, Value], key: Key, value: Value, limit: int = REMEMBERED_RUNS) -> None:
    # Bounded: a service that loops for weeks makes runs without end.
    known[key] = value
    if len(known) > limit:
        known.popitem(last=False)
