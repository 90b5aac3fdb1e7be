"""From what one message shows to a finding that holds: evidence, and a latch with hysteresis."""

from dataclasses import dataclass
from typing import Final

from perception.core.faults import FaultKind, SensorFault, Severity


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one look says about one kind of fault. detail: figures, for people."""

    kind: FaultKind
    is_bad: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """After how many looks in a row that say so a fault is raised, and after how many that do not it is cleared."""

    raise_after: int
    clear_after: int
    severity: Severity


RULES: Final[dict[FaultKind, Rule]] = {
    # What cannot be by chance needs no patience: no sensor with noise gives the same data twice.
    FaultKind.FROZEN: Rule(1, 2, Severity.ERROR),
    FaultKind.STUCK: Rule(2, 2, Severity.ERROR),
    FaultKind.UNREADABLE: Rule(2, 3, Severity.ERROR),
    FaultKind.SILENT: Rule(10, 2, Severity.ERROR),
    # A camera that drives out of a tunnel is blinded for less than a second.
    FaultKind.DARK: Rule(2, 3, Severity.ERROR),
    FaultKind.SATURATED: Rule(5, 5, Severity.ERROR),
    FaultKind.BLURRED: Rule(5, 5, Severity.WARNING),
    # A wall or a lorry beside the car fills a part of the view for a second or two.
    FaultKind.BLOCKED: Rule(8, 6, Severity.WARNING),
    FaultKind.COLLAPSED: Rule(5, 5, Severity.ERROR),
    FaultKind.ATTENUATED: Rule(5, 10, Severity.WARNING),
    FaultKind.MISCALIBRATED: Rule(2, 3, Severity.WARNING),
    FaultKind.JITTERY: Rule(5, 10, Severity.WARNING),
    FaultKind.LATE: Rule(3, 5, Severity.WARNING),
    FaultKind.CLOCK: Rule(3, 5, Severity.ERROR),
}


class Latch:
    """One kind of fault of one sensor: raised after enough bad looks in a row, cleared after enough good ones."""

    def __init__(self, kind: FaultKind) -> None:
        self._kind, self._rule = kind, RULES[kind]
        self._bad = self._good = 0
        self._began_ns = 0
        self._detail = ""
        self._is_raised = False

    def update(self, evidence: Evidence, time_ns: int) -> None:
        if evidence.is_bad:
            if self._bad == 0 and not self._is_raised:
                self._began_ns = time_ns
            self._bad, self._good = self._bad + 1, 0
            self._detail = evidence.detail
            self._is_raised = self._is_raised or self._bad >= self._rule.raise_after
        else:
            self._bad, self._good = 0, self._good + 1
            self._is_raised = self._is_raised and self._good < self._rule.clear_after

    @property
    def fault(self) -> SensorFault | None:
        """The finding, while it holds."""
        if not self._is_raised:
            return None
        return SensorFault(
            kind=self._kind.value, since_ns=self._began_ns, severity=self._rule.severity, detail=self._detail
        )
