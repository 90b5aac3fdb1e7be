"""Collects one reference time's messages."""

from collections.abc import Mapping
from dataclasses import dataclass

from perception.core.bundle import CloseReason, SensorBundle, Stamp
from perception.sync.buffers import SensorBuffer


@dataclass(slots=True, kw_only=True)
class Collector:
    """An open bundle. deadline_ns, opened_ns: on the arrival clock."""

    reference_ns: int
    reference_sensor: str
    opened_ns: int
    deadline_ns: int

    def closes_at(self, buffers: Mapping[str, SensorBuffer], now_ns: int) -> tuple[int, CloseReason]:
        """When it closes if no more messages come, and why: all settled or silent, or its time is up."""
        complete_ns = now_ns
        for buffer in buffers.values():
            if buffer.silent_at_ns > complete_ns and not buffer.is_settled(self.reference_ns):
                complete_ns = buffer.silent_at_ns
        if complete_ns <= max(self.deadline_ns, now_ns):
            return complete_ns, CloseReason.COMPLETE
        return max(self.deadline_ns, now_ns), CloseReason.DEADLINE

    def close(
        self, buffers: Mapping[str, SensorBuffer], *, sequence: int, closed_ns: int, reason: CloseReason
    ) -> SensorBundle:
        """Pick each sensor's nearest message and mark it as used."""
        hits: dict[str, Stamp] = {}
        for name, buffer in buffers.items():
            if (best := buffer.nearest(self.reference_ns)) is not None:
                best.is_used = True
                hits[name] = best.stamp
        return SensorBundle(
            sequence=sequence,
            reference_ns=self.reference_ns,
            reference_sensor=self.reference_sensor,
            opened_ns=self.opened_ns,
            deadline_ns=self.deadline_ns,
            closed_ns=closed_ns,
            reason=reason,
            hits=hits,
            misses=tuple(name for name in buffers if name not in hits),
        )
