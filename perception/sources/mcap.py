"""Drives as MCAP, as `perception.recorders.mcap` writes them: a file, or a folder with the files of one recording.

What goes in comes out bit by bit. A file without its index (its recorder was killed) is read up to its last whole
chunk; a damaged chunk is an error of each sensor in it, and the rest goes on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from perception.core.errors import DriveError, PayloadError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.formats import mcap_drive as names
from perception.formats.mcap_decisions import KIND as DECISIONS
from perception.formats.mcap_decisions import DecisionRecord, read_decision
from perception.formats.mcap_drive import DRIVE_RECORD, DriveRecord, read_drive
from perception.formats.mcap_records import read_labels
from perception.sources.mcap_file import McapFile, leading_metadata
from perception.sources.mcap_messages import Content, Decoder, content_of
from perception.sources.payloads import choose_scene
from perception.sources.rosbag_blocks import Block
from perception.sources.rosbag_mcap import has_ros_profile

SUFFIX = ".mcap"


class McapSource:
    """One drive at `path`. scene: of a folder with several recordings, the name of the first file of one.

    Raises DriveError where a file cannot be read, is of another kind, or parts do not belong together.
    """

    def __init__(self, path: Path | str, *, scene: str | None = None) -> None:
        paths, notes = _choose_files(Path(path), scene)
        self._parts = [_Part(path) for path in paths]
        self._parts.sort(key=lambda part: part.drive.part)
        self._drive = self._parts[0].drive
        for part in self._parts:
            if part.drive.rig.calibration_hash() != self._drive.rig.calibration_hash():
                raise DriveError(f"{part.file.path}: another rig than in {self._parts[0].file.path}")
        gaps = _missing_parts(self._parts)
        own = [note for part in self._parts for note in (*part.file.notes, *part.notes)]
        self._notes = (*self._drive.notes, *notes, *gaps, *own)
        self._label_places: dict[int, tuple[_Part, Block]] | None = None
        self._read_block: tuple[Block, dict[int, Labels | None]] | None = None

    @property
    def drive_id(self) -> str:
        return self._drive.drive_id

    @property
    def rig(self) -> SensorRig:
        return self._drive.rig

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the drive when it was recorded, and what is missing from the files."""
        return self._notes

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where the recorded drive came from, as its recorder was told."""
        return self._drive.provenance

    @property
    def span_ns(self) -> tuple[int, int] | None:
        spans = [span for part in self._parts if (span := part.span_ns) is not None]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return tuple(sorted(self._labels_by_time()))

    def messages(self) -> Iterator[AnyMessage]:
        return self.messages_from(0)

    def messages_from(self, arrival_ns: int) -> Iterator[AnyMessage]:
        """Messages that arrive at `arrival_ns` or later; what comes before is passed over by the index."""
        for part in self._parts:
            records = part.file.records(part.message_channels, arrival_ns)
            yield from Decoder(part.contents).messages(records)

    def labels(self, reference_ns: int) -> Labels | None:
        place = self._labels_by_time().get(reference_ns)
        if place is None:
            return None
        part, block = place
        if self._read_block is None or self._read_block[0] is not block:
            self._read_block = (block, part.labels_in(block))
        return self._read_block[1].get(reference_ns)

    def results(self) -> Iterator[bytes]:
        """Payloads of the results that were recorded: each a serialized `perception.v1.QueueItem`."""
        for part in self._parts:
            for record in part.file.records(part.channels_of(names.RESULTS)):
                if record.error is not None:
                    raise DriveError(record.error)
                yield bytes(record.data)

    def decisions(self) -> Iterator[DecisionRecord]:
        """What the live run that was recorded decided; nothing where it was none. Raises DecisionError, DriveError."""
        for part in self._parts:
            for record in part.file.records(part.channels_of(DECISIONS)):
                if record.error is not None:
                    raise DriveError(record.error)
                yield read_decision(record.data)

    def close(self) -> None:
        """Nothing is held open."""

    def _labels_by_time(self) -> "dict[int, tuple[_Part, Block]]":
        if self._label_places is None:
            places = {}
            for part in self._parts:
                channels = part.channels_of(names.LABELS)
                for block in part.file.blocks:
                    if block.channels & channels.keys():
                        for times in part.file.times(block, channels).values():
                            places.update(dict.fromkeys(times, (part, block)))
            self._label_places = places
        return self._label_places


class _Part:
    """One file of a recording."""

    def __init__(self, path: Path) -> None:
        self.drive: DriveRecord = _drive_of(path)
        self.file = McapFile(path)
        self.notes: list[str] = []
        self.contents: dict[str, Content] = {}
        """By the number of a channel, as text."""
        for number, channel in self.file.channels.items():
            try:
                self.contents[str(number)] = content_of(channel, self.drive.rig)
            except PayloadError as error:
                self.notes.append(f"{path.name}: a channel is left out: {error}")
        self.message_channels = self.channels_of(*names.MESSAGE_KINDS)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        return self.file.span_of(self.message_channels)

    def channels_of(self, *kinds: str) -> dict[int, str]:
        """Names of channels by their number."""
        return {int(name): name for name, content in self.contents.items() if content.kind in kinds}

    def labels_in(self, block: Block) -> dict[int, Labels | None]:
        """Raises DriveError where the block is damaged."""
        channels = self.channels_of(names.LABELS)
        try:
            found = [read_labels(entry.data) for entry in self.file.entries(block) if entry.channel in channels]
        except PayloadError as error:
            raise DriveError(f"{self.file.path}: labels cannot be read: {error}") from error
        return {labels.reference_ns: labels for labels in found}


def is_drive(path: Path) -> bool:
    """Whether a path is an MCAP file by its name that is no bag of ROS, or a folder with a recorded drive in it."""
    if path.is_file():
        return path.suffix == SUFFIX and not has_ros_profile(path)
    return path.is_dir() and any(DRIVE_RECORD in leading_metadata(file) for file in path.glob(f"*{SUFFIX}"))


def _drive_of(path: Path) -> DriveRecord:
    """Raises DriveError where the file was not written by the recorder of drives."""
    if not path.is_file():
        raise DriveError(f"{path}: no such file or folder")
    content = leading_metadata(path).get(DRIVE_RECORD)
    if content is not None:
        return read_drive(str(path), content)
    file = McapFile(path)
    types = sorted({schema.name for schema in file.schemas.values()})
    shown = ", ".join(types[:8])
    remedy = (
        f"it holds results: read them with `perception consume mcap:{path}`"
        if types == ["perception.v1.QueueItem"]
        else "it was not recorded by perception, so its sensors and their calibration are not known; as a bag of "
        "ROS 2 (profile `ros2`) it could be read"
    )
    raise DriveError(f"{path}: no metadata record {DRIVE_RECORD!r} in this file of {shown}: {remedy}")


def _choose_files(path: Path, scene: str | None) -> tuple[list[Path], tuple[str, ...]]:
    """The files of the recording that is meant, and a note where there are others."""
    if not path.is_dir():
        drive = _drive_of(path)
        next_part = path.with_name(f"{path.stem}_{1:04d}{path.suffix}")
        if drive.part or next_part.exists():
            return [path], (f"{path.name} is one file of a recording of several; give its folder to read all of them",)
        return [path], ()
    recordings: dict[str, dict[int, Path]] = {}
    for file in sorted(path.glob(f"*{SUFFIX}")):
        if DRIVE_RECORD in leading_metadata(file):
            drive = _drive_of(file)
            recordings.setdefault(drive.recording, {})[drive.part] = file
    firsts = {parts[min(parts)].name: parts for parts in recordings.values()}
    chosen, notes = choose_scene(path, {name: path / name for name in firsts}, scene, "recorded drive (*.mcap)")
    return list(firsts[chosen.name].values()), notes


def _missing_parts(parts: list[_Part]) -> list[str]:
    numbers = {part.drive.part for part in parts}
    missing = sorted(set(range(max(numbers))) - numbers) if len(parts) > 1 else []
    return [f"parts {', '.join(map(str, missing))} of the recording are missing"] if missing else []
