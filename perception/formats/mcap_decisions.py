"""What a live run decided, as JSON records of an MCAP file: which messages it took, and what became of each bundle.

Each message of the channel is one `DecisionRecord` with one of its parts. Messages are counted as they were read,
from 0.
"""

from functools import cache
from typing import Any, Final

import msgspec

from perception.core.errors import DecisionError

TOPIC: Final = "perception/decisions"
KIND: Final = "decisions"
VERSION: Final = 1


class ModelRecord(msgspec.Struct, frozen=True):
    name: str
    hash: str


class RunRecord(msgspec.Struct, frozen=True):
    """Comes first. models: the full one, then quicker ones. settings: those that results depend on. start_s,
    duration_s: the part of the drive that was played."""

    version: int
    drive_id: str
    run_id: str
    calibration_hash: str
    models: list[ModelRecord]
    settings: dict[str, Any]
    start_s: float
    duration_s: float | None


class PassedRecord(msgspec.Struct, frozen=True):
    """The message of this number was read too late and passed over."""

    message: int


class JumpRecord(msgspec.Struct, frozen=True):
    """Where the messages of these numbers would have come, the drive was entered anew at the one that is named."""

    message: int
    sensor: str
    capture_ns: int
    arrival_ns: int


class BundleRecord(msgspec.Struct, frozen=True):
    """What became of a bundle.

    bundle: its number among those that closed. hits: capture time by sensor. turn: its place in the
    order in which bundles were begun or dropped. at_message: how many messages had been
    read when its turn came, or when it was dropped. fate: a `Fate`. level, change: of the ladder. sequence: of its
    result. published_drive_ns: when that went out. base: steps of the tracker that a degraded result rests on.
    """

    bundle: int
    reference_ns: int
    hits: dict[str, int]
    turn: int
    at_message: int
    fate: str
    level: int = 0
    change: str = ""
    sequence: int | None = None
    published_drive_ns: int | None = None
    base: int | None = None


class EndRecord(msgspec.Struct, frozen=True):
    """Comes last. messages: how many were read. reason: as in `EndOfRun`."""

    messages: int
    reason: str


class DecisionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    run: RunRecord | None = None
    passed: PassedRecord | None = None
    jump: JumpRecord | None = None
    bundle: BundleRecord | None = None
    end: EndRecord | None = None


def pack_decision(record: DecisionRecord) -> bytes:
    return msgspec.json.encode(record)


def read_decision(data: bytes | memoryview) -> DecisionRecord:
    """Raises DecisionError where the bytes are no `DecisionRecord`."""
    try:
        return msgspec.json.decode(data, type=DecisionRecord)
    except msgspec.MsgspecError as error:
        raise DecisionError(f"a record of decisions is malformed: {error}") from error


@cache
def decision_schema() -> tuple[str, str, bytes]:
    """Name, encoding and definition of the schema, self-contained and an object at its top."""
    (schema,), parts = msgspec.json.schema_components([DecisionRecord], ref_template="#/$defs/{name}")
    top = parts.pop(DecisionRecord.__name__) if "$ref" in schema else schema
    return "perception.DecisionRecord", "jsonschema", msgspec.json.encode({**top, "$defs": parts})
