"""Messages in order of arrival where reading a payload can reveal that it arrived later than its stamp says."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from perception.core.messages import AnyMessage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """Messages not read yet. `load` gives them; they arrived from `earliest_ns` to `latest_ns`."""

    earliest_ns: int
    latest_ns: int
    load: Callable[[], Sequence[AnyMessage]]


def arrival_span(pending: Sequence[Pending]) -> tuple[int, int]:
    """From when to when messages arrive, without reading them; `pending` must not be empty."""
    return min(item.earliest_ns for item in pending), max(item.latest_ns for item in pending)


def in_arrival_order(pending: Iterable[Pending]) -> Iterator[AnyMessage]:
    """Load and yield messages by arrival; those that arrive together keep the order of `pending`.

    A payload is read only when no earlier message can still come from elsewhere, so few are in memory at once.
    """
    waiting: list[tuple[int, int, AnyMessage]] = []
    count = 0
    for item in sorted(pending, key=lambda item: item.earliest_ns):
        while waiting and waiting[0][0] < item.earliest_ns:
            yield heapq.heappop(waiting)[2]
        for message in item.load():
            heapq.heappush(waiting, (message.arrival_ns, count, message))
            count += 1
    while waiting:
        yield heapq.heappop(waiting)[2]
