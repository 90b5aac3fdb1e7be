"""Whether a radar still sees: the same returns again and again, or none where there were many."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from perception.core.faults import FaultKind
from perception.core.messages import RadarScan
from perception.pipeline.health.evidence import Evidence

MIN_REPEATED: Final = 2
"""Returns that must repeat: one or none at the same place may be chance."""
USUAL_RETURNS: Final = 3.0
"""A radar that sees fewer on average may well see none for a while: an empty side of the road."""
BASE_SCANS: Final = 20


class RadarChecks:
    """Looks at each scan; keeps the last one and how many returns are usual."""

    def __init__(self) -> None:
        self._last: RadarScan | None = None
        self._usual = 0.0
        self._seen = 0

    def check(self, scan: RadarScan) -> Iterator[Evidence]:
        count = len(scan.points_m)
        last, self._last = self._last, scan
        # Noise moves every measured number, so that a live radar never repeats one return exactly, let alone all.
        is_same = (
            last is not None
            and count >= MIN_REPEATED
            and np.array_equal(scan.points_m, last.points_m)
            and np.array_equal(scan.radial_mps, last.radial_mps)
        )
        yield Evidence(FaultKind.STUCK, is_same, f"the same {count} returns again")
        is_empty = count == 0 and self._seen >= BASE_SCANS and self._usual >= USUAL_RETURNS
        yield Evidence(FaultKind.SILENT, is_empty, f"no returns; {self._usual:.0f} are usual")
        if not is_empty:
            self._seen += 1
            self._usual += (count - self._usual) / min(self._seen, 100)
