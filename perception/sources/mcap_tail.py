"""A drive whose MCAP file is still being written: what is appended from now on, as soon as it is whole.

A recorder appends a chunk at a time, so messages come as late as its chunks are long; one that writes without chunks is
followed message by message. At the end of a file the next one of a recording that rotates is gone on with.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mcap.opcode import Opcode
from mcap.records import Channel

from perception.core.endless import Endless
from perception.core.errors import DriveError, PayloadError
from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.formats import mcap_drive as names
from perception.formats.file_watch import FileWatch
from perception.formats.mcap_drive import DRIVE_RECORD, DriveRecord, read_drive
from perception.sources.mcap_chunks import (
    MAGIC,
    MESSAGE_HEAD,
    RECORD_HEAD,
    message_head,
    parse,
    record_at,
    record_head,
    records_of_block,
)
from perception.sources.mcap_file import leading_metadata
from perception.sources.mcap_messages import Content, Decoder, content_of
from perception.sources.rosbag_storage import Record

ENDINGS: Final = frozenset({Opcode.DATA_END, Opcode.FOOTER})
NEXT_PART_S: Final = 1.0
"""How long the next file of a recording is waited for."""
WAIT_S: Final = 0.5


class McapTail(Endless):
    """A live source: `messages` waits for more until `interrupt`, and ends where the recording was finished.

    from_start: begin with what the file holds already. Raises DriveError where there is no drive in the file (yet), or
    its recording has ended.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = _newest_part(path)
        self._from_start = from_start
        content = leading_metadata(self._path).get(DRIVE_RECORD)
        if content is None:
            raise DriveError(f"{self._path}: no drive that is being recorded here (yet); its first chunk says which")
        self._drive: DriveRecord = read_drive(str(self._path), content)
        if not from_start and _is_finished(self._path):
            raise DriveError(f"{self._path}: this recording has ended; play it as a drive, without `tail:`")
        self._stopped = threading.Event()

    @property
    def drive_id(self) -> str:
        return self._drive.drive_id

    @property
    def rig(self) -> SensorRig:
        return self._drive.rig

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._drive.notes, f"followed while it is written: {self._path.name}")

    def messages(self) -> Iterator[AnyMessage]:
        """Raises DriveError where the file is damaged or was cut off."""
        path: Path | None = self._path
        skips = not self._from_start
        while path is not None and not self._stopped.is_set():
            try:
                with path.open("rb") as file:
                    follower = _Follower(file, path, self._drive.rig, self._stopped)
                    if skips:
                        follower.pass_over()
                    yield from follower.messages()
            except (OSError, PayloadError) as error:
                raise DriveError(f"{path}: cannot be followed: {error}") from error
            skips, path = False, self._await_next(path)

    def interrupt(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()

    def _await_next(self, path: Path) -> Path | None:
        """The file that follows `path` in its recording; None where none comes."""
        following = _following(path)
        deadline_s = time.monotonic() + NEXT_PART_S
        while not self._stopped.is_set() and time.monotonic() < deadline_s:
            content = leading_metadata(following).get(DRIVE_RECORD)
            if content is not None:
                is_next = read_drive(str(following), content).recording == self._drive.recording
                return following if is_next else None
            self._stopped.wait(0.02)
        return None


class _Follower:
    """Reads the records of one file as they become whole."""

    def __init__(self, file: BinaryIO, path: Path, rig: SensorRig, stopped: threading.Event) -> None:
        self._file = file
        self._path = path
        self._rig = rig
        self._stopped = stopped
        self._position = len(MAGIC)
        self._contents: dict[str, Content] = {}

    def pass_over(self) -> None:
        """Take the channels of what is whole now, and none of its messages."""
        while (opcode := self._whole_record()) is not None and opcode not in ENDINGS:
            self._read(opcode)

    def messages(self) -> Iterator[AnyMessage]:
        yield from Decoder(self._contents).messages(self._records())

    def _records(self) -> Iterator[Record]:
        watch = FileWatch(self._file.fileno())
        try:
            while not self._stopped.is_set():
                opcode = self._whole_record()
                if opcode is None:
                    watch.wait(WAIT_S)
                elif opcode in ENDINGS:
                    return
                else:
                    yield from self._read(opcode)
        finally:
            watch.close()

    def _whole_record(self) -> int | None:
        """Opcode of the next record, None while it is not whole. Raises DriveError where the file was cut off."""
        size = self._file.seek(0, 2)
        if size < self._position:
            raise DriveError(f"{self._path}: was cut off at byte {size}, behind what was read")
        if size < self._position + RECORD_HEAD.size:
            return None
        opcode, length = record_head(self._file, self._position)
        return opcode if size >= self._position + RECORD_HEAD.size + length else None

    def _read(self, opcode: int) -> list[Record]:
        """The messages of the next record, by log time; moves on behind it."""
        position = self._position
        _, length = record_head(self._file, position)
        self._position = position + RECORD_HEAD.size + length
        if opcode == Opcode.CHUNK:
            found = list(records_of_block(self._file, position, None))
        elif opcode in (Opcode.CHANNEL, Opcode.MESSAGE):
            found = [(opcode, memoryview(record_at(self._file, position)[1]))]
        else:
            return []
        records: list[Record] = []
        for kind, view in found:
            if kind == Opcode.CHANNEL:
                self._take_channel(bytes(view))
            elif kind == Opcode.MESSAGE:
                channel, log_ns = message_head(view, 0, len(view))
                if str(channel) in self._contents:
                    records.append(Record(topic=str(channel), log_ns=log_ns, data=view[MESSAGE_HEAD.size :]))
        records.sort(key=lambda record: record.log_ns)
        return records

    def _take_channel(self, data: bytes) -> None:
        channel = parse(Channel.read, data)
        try:
            content = content_of(channel, self._rig)
        except PayloadError:  # a channel that does not fit the rig is left out, as `McapSource` does
            return
        if content.kind in names.MESSAGE_KINDS:
            self._contents[str(channel.id)] = content


def _newest_part(path: Path) -> Path:
    """The last file of the recording that `path` is the first of."""
    while _following(path).is_file():
        path = _following(path)
    return path


def _following(path: Path) -> Path:
    """`drive.mcap`, `drive_0001.mcap`, `drive_0002.mcap` and so on."""
    stem, _, number = path.stem.rpartition("_")
    if stem and len(number) == 4 and number.isdigit():
        return path.with_name(f"{stem}_{int(number) + 1:04d}{path.suffix}")
    return path.with_name(f"{path.stem}_0001{path.suffix}")


def _is_finished(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - len(MAGIC)))
            return size > 2 * len(MAGIC) and file.read() == MAGIC
    except OSError as error:
        raise DriveError(f"{path}: cannot be read ({error.strerror})") from error
