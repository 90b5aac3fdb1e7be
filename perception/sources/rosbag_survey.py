"""What the beginning of a bag tells: transforms, calibration, the first messages of each topic, how clocks differ.

Only the static transforms are read to their end; of the other topics a few messages, or the first one, wherever it is.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_frames import Frames
from perception.sources.rosbag_storage import Record, Storage, Topic
from perception.sources.rosbag_types import CAMERA_INFO, OLD_TRANSFORMS, TRANSFORMS, check_definition, decode, stamp_ns

SAMPLES = 5
"""Messages of each topic that are looked at, for rates and clocks."""

_LOOK_NS = 3_000_000_000
_CLOCK_NS = 10_000_000_000
"""Stamps that differ more than this from the log, or from the other topics, run on another clock."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """The first messages of a topic. lags_ns: log time less stamp of those that have a stamp. error: of the last one
    that could not be read."""

    first: Any = None
    log_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    lags_ns: list[int] = field(default_factory=list)
    error: str | None = None

    @property
    def frame(self) -> str:
        return str(self.first.header.frame_id) if self.first is not None else ""

    @property
    def period_ns(self) -> float | None:
        """Median time between messages, by stamps if they have them, else by the log; None where nothing tells."""
        times = self.stamps_ns if len(self.stamps_ns) == len(self.log_ns) else self.log_ns
        steps = [after - before for before, after in pairwise(times) if after > before]
        return median(steps) if steps else None

    def take(self, message: Any, log_ns: int) -> None:
        header = message.header if hasattr(message, "header") else message.transforms[0].header
        self.first = message if self.first is None else self.first
        self.log_ns.append(log_ns)
        if (stamp := stamp_ns(header)) != 0:
            self.stamps_ns.append(stamp)
            self.lags_ns.append(log_ns - stamp)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """static: by `/tf_static`; moving: by `/tf`, as first told. samples: by topic, of those that have messages."""

    static: Frames
    moving: Frames
    samples: Mapping[str, Sample]


def survey(storage: Storage, topics: Collection[str]) -> Survey:
    """Look at `topics`, and at all transforms. Raises DriveError where one has a type that is not the released one."""
    transforms = {name for name, topic in storage.topics.items() if topic.type_name in (TRANSFORMS, OLD_TRANSFORMS)}
    for name in sorted({*topics, *transforms}):
        check_definition(storage.topics[name])
    is_static = {name for name in transforms if name.rstrip("/").endswith("tf_static")}
    static, moving = Frames(), Frames()
    for record in storage.records(is_static):
        _add(static, storage.topics[record.topic], record)
    samples = {name: Sample() for name in sorted({*topics, *(transforms - is_static)})}
    _look(storage, samples, moving)
    for name, sample in samples.items():
        if sample.first is None and name in topics:
            _look_further(storage, name, sample)
    heard = {name: sample for name, sample in samples.items() if sample.first is not None}
    for name in topics:
        if name not in heard and (error := samples[name].error) is not None:
            raise DriveError(f"{name}: no message of it can be read ({error}); leave it out with a topics.yaml")
    return Survey(static=static, moving=moving, samples=heard)


def _look(storage: Storage, samples: dict[str, Sample], moving: Frames) -> None:
    """Read the first seconds, until all topics have been seen often enough."""
    begin_ns = storage.span_ns[0] if storage.span_ns is not None else 0
    short = set(samples)
    for record in storage.records(samples):
        topic = storage.topics[record.topic]
        if topic.type_name in (TRANSFORMS, OLD_TRANSFORMS):
            _add(moving, topic, record)
        sample = samples[record.topic]
        _take(topic, record, sample)
        if len(sample.log_ns) >= SAMPLES or (topic.type_name == CAMERA_INFO and sample.first is not None):
            short.discard(record.topic)
        if not short or record.log_ns - begin_ns > _LOOK_NS:
            return


def _look_further(storage: Storage, name: str, sample: Sample) -> None:
    for record in storage.records({name}):
        _take(storage.topics[name], record, sample)
        if len(sample.log_ns) >= SAMPLES or storage.topics[name].type_name == CAMERA_INFO:
            return


def _take(topic: Topic, record: Record, sample: Sample) -> None:
    try:
        message = decode(topic, record)
    except PayloadError as error:
        sample.error = str(error)
        return
    if hasattr(message, "header") or message.transforms:
        sample.take(message, record.log_ns)


def _add(frames: Frames, topic: Topic, record: Record) -> None:
    try:
        frames.add(decode(topic, record), replace=False)
    except PayloadError as error:
        raise DriveError(f"{topic.name}: {error}; the places of the sensors cannot be told") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """How stamps become times. shift_ns: what is taken off log times. unstamped: topics whose log times are used."""

    shift_ns: int
    unstamped: frozenset[str]
    notes: tuple[str, ...]


def compare_clocks(samples: Mapping[str, Sample]) -> Clocks:
    """Find the topics without usable stamps, and what the log is ahead or behind of the others."""
    lags = {name: median(sample.lags_ns) for name, sample in samples.items() if sample.lags_ns}
    main = min(lags.values(), key=abs, default=0)
    silent = {name for name, sample in samples.items() if len(sample.lags_ns) < len(sample.log_ns)}
    foreign = {name for name, lag in lags.items() if abs(lag - main) > _CLOCK_NS} - silent
    notes = [f"{name}: header stamps are 0; the log time is taken" for name in sorted(silent)]
    notes += [f"{name}: header stamps run on another clock; the log time is taken" for name in sorted(foreign)]
    unstamped = frozenset(silent | foreign)
    earliest = min((min(samples[name].lags_ns) for name in lags if name not in unstamped), default=0)
    shift_ns = earliest if earliest < 0 or main > _CLOCK_NS else 0
    if shift_ns:
        notes.append(
            f"messages were logged {earliest / 1e9:.6g} s after their stamps, so the clocks differ; arrival times are "
            "the log's, shifted by that"
        )
    return Clocks(shift_ns=shift_ns, unstamped=unstamped, notes=tuple(notes))
