"""The drive that live benchmarks run on: rendered once to a file, then repeated without a seam in time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import SyncConfig
from perception.core.bundle import SensorBundle, Stamp
from perception.core.endless import Endless
from perception.core.errors import DriveError
from perception.core.geometry import invert
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan
from perception.core.ports import Source
from perception.core.rig import Modality, SensorRig
from perception.recorders.mcap import McapRecorder
from perception.sources.mcap import McapSource
from perception.sync.synchronizer import Synchronizer

F64 = NDArray[np.float64]
FILE_NAME = "drive.mcap"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFrame:
    """What the synchronizer makes of a drive: the bundle, and which message (by its place in the drive) closed it."""

    closed_by: int
    bundle: SensorBundle


class EndlessDrive(Endless):
    """A source that repeats the messages of a drive for ever: times go on, and each lap begins where the last ended.

    One lap holds the captures from the reference sensor's first one to its last one. Actors jump at a lap's end; the
    ego does not. source_id: the drive that is repeated. begin_s: where in it to begin.
    Raises DriveError where the drive is shorter than two captures of the reference sensor.
    """

    def __init__(
        self,
        rig: SensorRig,
        messages: Iterable[AnyMessage],
        *,
        drive_id: str = "bench/drive",
        source_id: str | None = None,
        begin_s: float = 0.0,
    ) -> None:
        self._rig = rig
        self._drive_id = drive_id
        self.source_id = source_id or drive_id
        kept = list(messages)
        self.reference = (rig.of(Modality.LIDAR) or rig.sensors)[0].name
        first_ns, self._period_ns, self.frame_hz = _lap(self.reference, kept, drive_id)
        self._turn = _turn(kept, first_ns, first_ns + self._period_ns)
        whole = [one for one in kept if first_ns <= one.capture_ns < first_ns + self._period_ns]
        self._first_ns = first_ns + round(begin_s * 1e9) % self._period_ns
        self._order = sorted(whole, key=lambda one: (one.arrival_ns - self._first_ns) % self._period_ns)

    @classmethod
    def load(cls, folder: Path, *, drive_id: str = "bench/drive", begin_s: float = 0.0) -> "EndlessDrive":
        """The drive that `render` left in `folder`, held in memory."""
        source = McapSource(folder / FILE_NAME)
        try:
            return cls(source.rig, source.messages(), drive_id=drive_id, source_id=source.drive_id, begin_s=begin_s)
        finally:
            source.close()

    @property
    def drive_id(self) -> str:
        return self._drive_id

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a recorded drive, repeated for ever",)

    def messages(self) -> Iterator[AnyMessage]:
        """Without an end: whoever reads says for how long."""
        turns = [np.eye(4)]
        for lap in count():
            turns.append(self._turn @ turns[-1])
            for message in self._order:
                # What a lap's last captures bring arrives in the next one.
                own = lap - (message.arrival_ns - self._first_ns) // self._period_ns
                if own >= 0:
                    yield _shifted(message, own * self._period_ns, turns[own])

    def part(self, seconds: float) -> list[AnyMessage]:
        """What arrives in the first `seconds` of the drive's own time."""
        messages = self.messages()
        first = next(messages)
        end_ns = first.arrival_ns + round(seconds * 1e9)
        return [first, *takewhile(lambda one: one.arrival_ns < end_ns, messages)]

    def close(self) -> None:
        """Nothing is held open."""


def render(source: Source, folder: Path) -> int:
    """Record a drive into `folder`, so that other processes can load it; the number of messages."""
    recorder = McapRecorder(folder / FILE_NAME, source.rig, drive_id=source.drive_id)
    written = 0
    try:
        for message in source.messages():
            recorder.write(message)
            written += 1
    finally:
        recorder.close()
        source.close()
    return written


def plan_frames(rig: SensorRig, messages: Iterable[AnyMessage], sync: SyncConfig) -> list[PlannedFrame]:
    """The frames that the service would make of `messages`, for programs without a synchronizer of their own.

    The index of a stamp is the place of its message.
    """
    synchronizer = Synchronizer(rig, sync)
    plan = []
    for place, message in enumerate(messages):
        if isinstance(message, CameraFrame | LidarSweep | RadarScan):
            stamp = Stamp(
                arrival_ns=message.arrival_ns, index=place, sensor=message.sensor, capture_ns=message.capture_ns
            )
            bundles = synchronizer.push(stamp)
        else:
            bundles = synchronizer.advance(message.arrival_ns)
        plan += [PlannedFrame(closed_by=place, bundle=bundle) for bundle in bundles]
    return plan


def _lap(reference: str, messages: list[AnyMessage], drive_id: str) -> tuple[int, int, float]:
    """First capture, length of a lap in ns, and frames a second."""
    captures = sorted(one.capture_ns for one in messages if one.sensor == reference)
    if len(captures) < 2:
        raise DriveError(f"{drive_id}: {len(captures)} captures of {reference}; a drive to repeat needs two")
    length_ns = captures[-1] - captures[0]
    return captures[0], length_ns, (len(captures) - 1) * 1e9 / length_ns


def _turn(messages: list[AnyMessage], begin_ns: int, end_ns: int) -> F64:
    """world_SE3_world that moves the ego from where a lap begins to where it ends."""
    poses = [one for one in messages if isinstance(one, EgoState) and one.world_SE3_ego is not None]
    begins = [one for one in poses if one.capture_ns >= begin_ns]
    ends = [one for one in poses if one.capture_ns >= end_ns] or poses[-1:]
    if not begins or not ends:
        return np.eye(4)
    first, last = begins[0].world_SE3_ego, ends[0].world_SE3_ego
    assert first is not None
    assert last is not None
    return last @ invert(first)


def _shifted(message: AnyMessage, by_ns: int, turn: F64) -> AnyMessage:
    capture_ns, arrival_ns = message.capture_ns + by_ns, message.arrival_ns + by_ns
    if isinstance(message, EgoState) and message.world_SE3_ego is not None:
        pose = turn @ message.world_SE3_ego
        return replace(message, capture_ns=capture_ns, arrival_ns=arrival_ns, world_SE3_ego=pose)
    return replace(message, capture_ns=capture_ns, arrival_ns=arrival_ns)
