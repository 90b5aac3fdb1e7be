"""Decisions of a live run: written down as they are made, and made again the same way, at any speed, on any machine.

A result depends on the messages that a bundle holds, on the rung at which it was worked on, and on when its turn
came; not on how long anything took. So those are all that is written down (`perception/formats/mcap_decisions.py`).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perception.config.schema import ServiceConfig, Settings
from perception.core.bundle import DropCause, SensorBundle
from perception.core.errors import DecisionError
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, Source
from perception.formats.mcap_decisions import (
    VERSION,
    BundleRecord,
    DecisionRecord,
    EndRecord,
    JumpRecord,
    RunRecord,
)
from perception.pipeline.completion import Outcome
from perception.pipeline.deadlines import Fate, ReplayDeadlines
from perception.pipeline.decision_log import DECIDING, hits_of, models_of
from perception.pipeline.frames import Draft
from perception.pipeline.ladder import Rung, rungs_of
from perception.pipeline.steering import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionBook:
    """A run's decisions, read back. bundles: by number. passed: numbers of messages. jumps: by number of message.

    name: where they come from. end: None where the recording breaks off.
    """

    name: str
    run: RunRecord
    bundles: dict[int, BundleRecord]
    passed: frozenset[int]
    jumps: dict[int, JumpRecord]
    end: EndRecord | None

    @classmethod
    def of(cls, name: str, records: Iterable[DecisionRecord]) -> "DecisionBook":
        """Raises DecisionError where there are none, or of another version."""
        run: RunRecord | None = None
        end: EndRecord | None = None
        bundles, passed, jumps = {}, set(), {}
        for record in records:
            run, end = record.run or run, record.end or end
            if record.bundle is not None:
                bundles[record.bundle.bundle] = record.bundle
            if record.passed is not None:
                passed.add(record.passed.message)
            if record.jump is not None:
                jumps[record.jump.message] = record.jump
        if run is None:
            raise DecisionError(f"{name}: it holds no decisions; record a live run with `--live --record FILE.mcap`")
        if run.version != VERSION:
            raise DecisionError(f"{name}: its decisions have version {run.version}; {VERSION} is known")
        return cls(name=name, run=run, bundles=bundles, passed=frozenset(passed), jumps=jumps, end=end)

    def settings(self, given: ServiceConfig) -> ServiceConfig:
        """`given` with the recorded run's settings where it says nothing else. Raises DecisionError where it does."""
        recorded = ServiceConfig.model_validate({name: self.run.settings.get(name, {}) for name in DECIDING})
        plain = ServiceConfig()
        for name in DECIDING:
            asked, then = getattr(given, name), getattr(recorded, name)
            if asked != getattr(plain, name) and asked != then:
                raise DecisionError(f"{self.name}: the run had other settings: {_difference(name, asked, then)}")
        return given.model_copy(update={name: getattr(recorded, name) for name in DECIDING})

    def check(self, source: Source, engine: Engine) -> None:
        """Raises DecisionError where this is another drive, rig or model."""
        models = models_of(engine)
        recorded = {
            "drive": self.run.drive_id,
            "calibration": self.run.calibration_hash,
            "number of models": str(len(self.run.models)),
        }
        here = {
            "drive": source.drive_id,
            "calibration": source.rig.calibration_hash(),
            "number of models": str(len(models)),
        }
        for model, info in zip(self.run.models, models, strict=False):
            recorded[f"model {model.name}"], here[f"model {model.name}"] = model.hash, info.hash
        for what, value in recorded.items():
            if value != here[what]:
                raise DecisionError(f"{self.name}: the run had {what} {value!r}, here it is {here[what]!r}")


@dataclass(slots=True)
class RecordedSteering:
    """Makes the decisions of a book again. Raises DecisionError where they do not fit what comes."""

    book: DecisionBook
    rungs: Sequence[Rung]
    _drafts: deque[Draft] = field(default_factory=deque)
    _taken: int = 0
    _turn: int = 0

    @classmethod
    def of(cls, book: DecisionBook, config: ServiceConfig) -> "RecordedSteering":
        return cls(book, rungs_of(config.ladder))

    def is_jumped_over(self, message: AnyMessage) -> bool:
        """Whether the recorded run never read this message."""
        jump = self.book.jumps.get(self._taken)
        if jump is None:
            return False
        return (jump.sensor, jump.capture_ns, jump.arrival_ns) != (
            message.sensor,
            message.capture_ns,
            message.arrival_ns,
        )

    @property
    def is_over(self) -> bool:
        """Whether the recorded run read no more messages than came so far."""
        return self.book.end is not None and self._taken >= self.book.end.messages

    def takes(self, message: AnyMessage, lag_ns: int) -> bool:
        self._taken += 1
        return self._taken - 1 not in self.book.passed

    def eager(self, *, has_room: bool) -> Rung | None:
        return None

    def offer(self, draft: Draft) -> None:
        self._check(draft.bundle)
        self._drafts.append(draft)

    def order(self, at_message: int, *, has_room: bool) -> Order | None:
        for draft in self._drafts:
            record = self._record(draft)
            if record.turn == self._turn and record.at_message <= at_message:
                self._drafts.remove(draft)
                self._turn += 1
                if record.fate in _DROPPED:
                    return Order(draft=draft, cause=DropCause(record.fate))
                return Order(draft=draft, rung=self.rungs[record.level], change=record.change)
        return None

    @property
    def is_waiting(self) -> bool:
        return False

    def check_done(self) -> None:
        """The drive has ended. Raises DecisionError where the recorded run went on."""
        if self._drafts or (self.book.end is not None and self._taken < self.book.end.messages):
            raise DecisionError(
                f"{self.book.name}: the recorded run went on behind message {self._taken}, where this drive ends"
            )

    def observe(self, outcome: Outcome) -> None:
        """What was decided is not changed by what happens now."""

    def _record(self, draft: Draft) -> BundleRecord:
        return self.book.bundles[draft.bundle.sequence]

    def _check(self, bundle: SensorBundle) -> None:
        record = self.book.bundles.get(bundle.sequence)
        where = f"{self.book.name}: bundle {bundle.sequence} at {bundle.reference_ns}"
        if record is None:
            raise DecisionError(f"{where} is not among the decisions: the recording breaks off, or is of another drive")
        if record.reference_ns != bundle.reference_ns or record.hits != hits_of(bundle):
            other = sorted(set(record.hits.items()) ^ set(hits_of(bundle).items()))
            raise DecisionError(
                f"{where} is made of other messages than in the recorded run ({record.reference_ns}; "
                f"{', '.join(f'{sensor} {time}' for sensor, time in other[:4])}): another drive, or other settings"
            )
        if record.level >= len(self.rungs):
            raise DecisionError(f"{where} was made on rung {record.level}, but the ladder has {len(self.rungs)}")


class RecordedDeadlines(ReplayDeadlines):
    """Publishes, degrades and drops as a book says."""

    def __init__(self, book: DecisionBook, config: ServiceConfig) -> None:
        super().__init__(config.deadline)
        self._book = book

    def published_at(self, bundle: SensorBundle) -> int:
        at_ns = self._book.bundles[bundle.sequence].published_drive_ns
        return super().published_at(bundle) if at_ns is None else at_ns

    def degrade_in_s(self, bundle: SensorBundle, *, is_next: bool, is_ready: bool) -> float | None:
        # Once everything before it is done with, the tracks that it rests on are known for certain.
        return 0.0 if is_next and self._fate(bundle) is Fate.DEGRADED else None

    def is_dropped(self, bundle: SensorBundle, published_at: int) -> bool:
        return self._fate(bundle) is Fate.DEADLINE

    def base(self, bundle: SensorBundle, steps: int) -> int:
        base = self._book.bundles[bundle.sequence].base
        return steps if base is None else base

    def _fate(self, bundle: SensorBundle) -> Fate:
        return Fate(self._book.bundles[bundle.sequence].fate)


_DROPPED = frozenset({Fate.OVERLOAD.value, Fate.SKIPPED.value, Fate.OUTAGE.value})


def _difference(section: str, asked: Settings, then: Settings) -> str:
    """Which fields of a section differ, and how."""
    here: dict[str, Any] = asked.model_dump(mode="json")
    there: dict[str, Any] = then.model_dump(mode="json")
    parts = [
        f"{section}.{name} was {there[name]}, here it is {value}"
        for name, value in here.items()
        if there[name] != value
    ]
    return "; ".join(parts)
