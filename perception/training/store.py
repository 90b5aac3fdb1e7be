"""Training frames on disk, so that a drive is read or rendered once.

A folder for each drive, named by its key, holds shards (safetensors: the rows of up to 64 frames joined, array by
array) and an index. It is made under another name and renamed when it is whole: what has its name can be read.
"""

import fcntl
import hashlib
import json
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError
from perception.training.cleaning import Findings
from perception.training.frame_arrays import POINTS, Arrays, from_arrays, quantise, restore, to_arrays
from perception.training.frames import TrainingFrame

FORMAT: Final = "perception-frames-4"
"""Goes into every key: frames of another format are made again."""

SHARD_FRAMES: Final = 64
SHARD_BYTES: Final = 128 << 20
"""A shard is written as soon as its frames take so much memory."""

_INDEX: Final = "index.json"
_PART: Final = ".part"
_ROWS: Final = "rows"
_SCALE: Final = "scale."


@dataclass(frozen=True, slots=True)
class StoredShard:
    file: str
    frames: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredDrive:
    """What the index says of a drive. path: as it was opened. findings: what was wrong with its data."""

    path: str
    drive_id: str
    notes: tuple[str, ...]
    shards: tuple[StoredShard, ...]
    findings: Findings

    @property
    def frames(self) -> int:
        return sum(shard.frames for shard in self.shards)


class FrameStore(Sequence[TrainingFrame]):
    """The frames of some drives of a folder, one after the other. Reading one maps its shard and copies its rows only.

    keys: the drives, in this order; None: all that are there. Raises DriveError where one is missing or damaged.
    """

    def __init__(self, folder: Path | str, keys: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self._keys: list[str] = []
        self._drives: list[StoredDrive] = []
        self._ends: list[int] = []
        self._shards: list[tuple[Path, str]] = []
        self._open: dict[int, _Shard] = {}
        self._cameras: dict[bytes, CameraModel] = {}
        present = sorted(path.parent.name for path in self.folder.glob(f"*/{_INDEX}") if path.parent.suffix != _PART)
        for key in present if keys is None else keys:
            drive = stored_drive(self.folder, key)
            if drive is None:
                raise DriveError(f"{self.folder / key}: the frames are missing or damaged; prepare the drives again")
            self._append(key, drive)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._keys)

    @property
    def drives(self) -> tuple[StoredDrive, ...]:
        return tuple(self._drives)

    @property
    def data_hash(self) -> str:
        """First 16 hex digits of a SHA-256 over the keys: equal where the same frames come in the same order."""
        return hashlib.sha256("\n".join(self._keys).encode()).hexdigest()[:16]

    def add(
        self,
        key: str,
        frames: Iterable[TrainingFrame],
        *,
        path: str = "",
        drive_id: str = "",
        notes: Sequence[str] = (),
        findings: Findings | None = None,
    ) -> StoredDrive:
        """Store a drive and append it to this sequence; one that is there already stays, and `frames` is not begun.

        `frames` is iterated once, a shard's worth in memory; `findings` is written after its end. Raises DriveError
        where the disk refuses; nothing of the drive is left then.
        """
        if key in self._keys:
            raise ValueError(f"drive {key} is part of this sequence already")
        part = self.folder / f"{key}{_PART}"
        with _writing(self.folder, key):
            drive = stored_drive(self.folder, key)
            if drive is None:
                shutil.rmtree(part, ignore_errors=True)
                try:
                    part.mkdir(parents=True)
                    shards = tuple(_write_shards(part, frames))
                    drive = StoredDrive(path, drive_id, tuple(notes), shards, findings or Findings())
                    (part / _INDEX).write_text(json.dumps(_to_json(drive), indent=1), encoding="utf-8")
                    shutil.rmtree(self.folder / key, ignore_errors=True)
                    part.replace(self.folder / key)
                except (OSError, SafetensorError) as error:
                    raise DriveError(f"{part}: frames cannot be written ({error}); free some space") from error
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        self._append(key, drive)
        return drive

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> TrainingFrame: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrainingFrame]: ...
    def __getitem__(self, index: int | slice) -> TrainingFrame | list[TrainingFrame]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        number = bisect_right(self._ends, place)
        path, drive_id = self._shards[number]
        if number not in self._open:
            self._open[number] = _Shard(path)
        start = self._ends[number - 1] if number else 0
        return from_arrays(self._open[number].read(place - start), drive_id, self._cameras)

    def __reduce__(self) -> tuple[type["FrameStore"], tuple[Path, list[str]]]:
        """Maps cannot go to another process: it opens the store anew."""
        return FrameStore, (self.folder, self._keys)

    def _append(self, key: str, drive: StoredDrive) -> None:
        self._keys.append(key)
        self._drives.append(drive)
        self._shards += [(self.folder / key / shard.file, drive.drive_id) for shard in drive.shards]
        first = len(self)
        self._ends += [first + end for end in accumulate(shard.frames for shard in drive.shards)]


def stored_drive(folder: Path, key: str) -> StoredDrive | None:
    """The index of a drive, None where it is not there, of another format, or its shards are missing or cut off."""
    try:
        values = json.loads((folder / key / _INDEX).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            return None
        shards = tuple(StoredShard(**shard) for shard in values["shards"])
        if any((folder / key / shard.file).stat().st_size != shard.bytes for shard in shards):
            return None
        return StoredDrive(
            values["path"], values["drive_id"], tuple(values["notes"]), shards, Findings.from_json(values["findings"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Shard:
    """One open shard; the file is mapped, not read."""

    def __init__(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise DriveError(f"{path}: cannot be read ({error}); remove its folder and prepare again") from error
        self._names = sorted(name for name in file.keys() if name != _ROWS and not name.startswith(_SCALE))  # noqa: SIM118
        self._slices = {name: file.get_slice(name) for name in self._names}
        # safetensors refuses a slice of no rows.
        self._none = {
            name: (rows[:1] if rows.get_shape()[0] else file.get_tensor(name))[:0]
            for name, rows in self._slices.items()
        }
        self._scales = {name: file.get_tensor(_SCALE + name) for name in POINTS}
        rows = file.get_tensor(_ROWS)
        self._ends: NDArray[np.int64] = np.concatenate([np.zeros_like(rows[:1]), np.cumsum(rows, axis=0)])

    def read(self, place: int) -> Arrays:
        """The arrays of one frame."""
        starts, ends = self._ends[place].tolist(), self._ends[place + 1].tolist()
        arrays: Arrays = {
            name: self._slices[name][start:end] if start < end else self._none[name]
            for name, start, end in zip(self._names, starts, ends, strict=True)
        }
        return arrays | {name: restore(arrays[name], scale) for name, scale in self._scales.items()}


def _write_shards(folder: Path, frames: Iterable[TrainingFrame]) -> Iterator[StoredShard]:
    waiting: list[Arrays] = []
    size = count = 0
    for frame in frames:
        arrays = to_arrays(frame)
        waiting.append(arrays)
        size += sum(array.nbytes for array in arrays.values())
        if len(waiting) == SHARD_FRAMES or size >= SHARD_BYTES:
            yield _write_shard(folder / f"{count:05d}.safetensors", waiting)
            waiting, size, count = [], 0, count + 1
    if waiting:
        yield _write_shard(folder / f"{count:05d}.safetensors", waiting)


def _write_shard(path: Path, frames: list[Arrays]) -> StoredShard:
    names = sorted(frames[0])
    tensors: Arrays = {_ROWS: np.array([[len(frame[name]) for name in names] for frame in frames], dtype=np.int64)}
    for name in names:
        # An empty array does not know the shape of rows that it has none of.
        parts = [frame[name] for frame in frames if len(frame[name])] or [frames[0][name]]
        tensors[name] = np.ascontiguousarray(np.concatenate(parts))
    for name in POINTS:
        tensors[name], tensors[_SCALE + name] = quantise(tensors[name])
    save_file(tensors, path, metadata={"format": FORMAT})
    return StoredShard(path.name, len(frames), path.stat().st_size)


@contextmanager
def _writing(folder: Path, key: str) -> Iterator[None]:
    """Alone with a drive: a second run that wants the same one waits, then finds it. The lock ends with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{key}.lock").open("w")
    except OSError as error:
        raise DriveError(f"{folder}: cannot be written ({error.strerror}); choose another data.store") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _to_json(drive: StoredDrive) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "path": drive.path,
        "drive_id": drive.drive_id,
        "notes": list(drive.notes),
        "frames": drive.frames,
        "shards": [{"file": shard.file, "frames": shard.frames, "bytes": shard.bytes} for shard in drive.shards],
        "findings": drive.findings.to_json(),
    }
