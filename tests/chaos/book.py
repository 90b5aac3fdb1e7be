"""What a consumer has dealt with, line by line in a file, so that it knows so itself after its death."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from tests.undisturbed import decided


class Entry(NamedTuple):
    """One item as it was dealt with. sequence: of a result, None for the end of a run. value: digest, or the reason.

    reported: what it said it had lost (`outage`, `overload`), and restarts. published_s, received_s: wall time.
    """

    run_id: str
    sequence: int | None
    value: str
    outage: int
    overload: int
    restarts: int
    published_s: float
    received_s: float


@dataclass(slots=True)
class Book:
    """`redelivered`: items that came again after a death and were known."""

    path: Path

    def entries(self) -> list[Entry]:
        """All that was dealt with; a line that its writer did not finish counts for nothing."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]
        return [_parse(line) for line in lines if line.count("\t") == 7]

    def mend(self) -> None:
        """Cut off what the last writer did not finish."""
        if self.path.exists():
            text = self.path.read_text()
            self.path.write_text(text[: text.rfind("\n") + 1])


def line_of(item: QueueItem, received_s: float) -> str:
    if isinstance(item, EndOfRun):
        return f"{item.run_id}\t\t{item.count} {item.reason}\t0\t0\t0\t0\t{received_s}\n"
    dropped, restarts = item.provenance.dropped, sum(item.provenance.restarts.values())
    digest = hashlib.sha256(decided(item).encode()).hexdigest()[:16]
    lost = f"{dropped.get('outage', 0)}\t{dropped.get('overload', 0)}"
    return f"{item.run_id}\t{item.sequence}\t{digest}\t{lost}\t{restarts}\t{item.published_ns / 1e9}\t{received_s}\n"


def _parse(line: str) -> Entry:
    run_id, sequence, value, outage, overload, restarts, published, received = line.split("\t")
    number = int(sequence) if sequence else None
    return Entry(run_id, number, value, int(outage), int(overload), int(restarts), float(published), float(received))
