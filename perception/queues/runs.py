"""Which items of a queue a consumer is given, and how many it has lost: a matter of run and sequence alone."""

from collections import OrderedDict
from typing import TypeVar

from perception.core.ports import QueueItem, Start
from perception.core.results import EndOfRun

REMEMBERED_RUNS = 64

Run = tuple[str, str]
Value = TypeVar("Value")


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


def _remember(runs: OrderedDict[Run, Value], run: Run, value: Value) -> None:
    # Bounded: a service that loops for weeks makes runs without end.
    runs[run] = value
    if len(runs) > REMEMBERED_RUNS:
        runs.popitem(last=False)
