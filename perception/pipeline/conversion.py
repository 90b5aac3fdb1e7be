"""A drive from one format into another, and the proof that nothing of it was lost on the way."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, RouteCommand, Unreadable
from perception.core.ports import Recorder, Source
from perception.pipeline.drive_part import part_of
from perception.pipeline.recording import Recording


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was there of one sensor: messages, bytes, and hashes over all of them in the order of arrival."""

    messages: int = 0
    unreadable: int = 0
    payload_bytes: int = 0
    _times: "hashlib.blake2b" = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    _payloads: "hashlib.blake2b" = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, message: AnyMessage) -> None:
        self.messages += 1
        self.unreadable += isinstance(message, Unreadable)
        self._times.update(f"{message.capture_ns}|{message.arrival_ns}|".encode())
        self._payloads.update(type(message).__name__.encode())
        for part in _parts(message):
            self.payload_bytes += len(part)
            self._payloads.update(len(part).to_bytes(8, "little"))
            self._payloads.update(part)

    @property
    def payload_digest(self) -> str:
        """Of what was measured."""
        return self._payloads.hexdigest()

    @property
    def digest(self) -> str:
        """Of what was measured and when."""
        return f"{self.payload_digest}{self._times.hexdigest()}"


Tallies = dict[str, Tally]


def convert_drive(
    source: Source,
    recorder: Recorder,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    on_message: Callable[[AnyMessage], None] | None = None,
) -> Tallies:
    """Write the messages and labels of (a part of) a drive; what was written, by sensor.

    Raises DriveError where the drive breaks off or cannot be written.
    """
    recording, tallies = Recording(source, [recorder]), Tallies()
    for _, message in part_of(source, start_s, duration_s):
        tallies.setdefault(message.sensor, Tally()).add(message)
        recording.message(message)
        if on_message is not None:
            on_message(message)
    return tallies


def tally(messages: Iterable[AnyMessage]) -> Tallies:
    """What a drive holds, by sensor."""
    tallies = Tallies()
    for message in messages:
        tallies.setdefault(message.sensor, Tally()).add(message)
    return tallies


def _parts(message: AnyMessage) -> Iterator[bytes]:
    """All that a message says, as bytes."""
    if isinstance(message, CameraFrame):
        yield message.data
    elif isinstance(message, LidarSweep):
        yield message.motion.encode()
        yield from _arrays(message.points_m, message.intensity, message.point_offset_ns, message.ring)
    elif isinstance(message, RadarScan):
        yield from _arrays(
            message.points_m, message.rcs_dbsm, message.radial_mps, message.compensated_mps, message.is_valid
        )
    elif isinstance(message, EgoState):
        yield from _arrays(message.world_SE3_ego, message.velocity_mps)
        yield repr(message.yaw_rate_radps).encode()
    elif isinstance(message, RouteCommand):
        yield f"{message.command}|{message.speed_limit_mps!r}|{message.signal}|{message.distance_m!r}".encode()
        yield from _arrays(message.target_m)
    elif isinstance(message, Unreadable):
        yield message.error.encode()


def _arrays(*arrays: NDArray[np.generic] | None) -> Iterator[bytes]:
    for array in arrays:
        yield b"none" if array is None else f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
