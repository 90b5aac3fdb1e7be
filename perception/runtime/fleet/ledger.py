"""The ledger of a fleet's folder: a line for each drive that was dealt with, and before them the settings.

Only ever appended to, a line at a time, each forced to the disk: whatever is killed, at most the line that was being
written is lost, and it is cut off by the next run. Later lines of a drive stand for earlier ones.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import UsageError

LEDGER_NAME: Final = "ledger.jsonl"
FORMAT: Final = 1
DONE, FAILED = "done", "failed"


class Ledger:
    """The ledger of `folder`, held by one process at a time.

    settings: whatever decides about results. Raises UsageError where the folder has results of other settings, naming
    what differs, where another process is at work there, or where it cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path = folder / LEDGER_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("a+b")
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another `perception fleet` is at work there") from None
        except OSError as error:
            raise UsageError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None
        try:
            self._cut_off()
            self._begin(settings)
        except BaseException:
            self._stream.close()
            raise

    def done(self) -> "Finished":
        """The drives whose latest line says that they are done."""
        return Finished.of(self._path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, for good."""
        self._stream.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()

    def _cut_off(self) -> None:
        """Remove a line that was never finished."""
        size = end = self._stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            self._stream.seek(start)
            last = self._stream.read(end - start).rfind(b"\n")
            end = start + last + 1 if last >= 0 else start
            if last >= 0:
                break
        if end != size:
            self._stream.truncate(end)

    def _begin(self, settings: Mapping[str, Any]) -> None:
        header = {"format": FORMAT, "settings": json.loads(json.dumps(settings))}
        if self._stream.seek(0, os.SEEK_END) == 0:
            self.append(header)
            return
        before = read_header(self._path)
        differences = _differences(before["settings"], header["settings"])
        if differences:
            raise UsageError(
                f"{self._path.parent}: holds results of other settings ({'; '.join(differences)}); use the same, or "
                "give another --out"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """Which drives are done: 8 bytes for each, so that tens of millions fit. keys: (N,) uint64, rising."""

    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, path: Path) -> "Finished":
        keys, is_done = _keys(path)
        latest = _latest(keys)
        return cls(keys=np.unique(keys[latest & is_done]))

    def __contains__(self, key: int) -> bool:
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        return at < len(self.keys) and int(self.keys[at]) == key

    def __len__(self) -> int:
        return len(self.keys)


def read_header(path: Path) -> dict[str, Any]:
    """The first line of a ledger. Raises UsageError where it is none."""
    try:
        with path.open("rb") as stream:
            header = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: no ledger of `perception fleet` ({error})") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UsageError(f"{path}: a ledger of another version than {FORMAT}; give another folder")
    return header


def read_latest(path: Path) -> Iterator[dict[str, Any]]:
    """The latest line of each drive, in the order of the file, one at a time. Raises UsageError as `read_header`."""
    read_header(path)
    keys, _ = _keys(path)
    for is_latest, record in zip(_latest(keys), _records(path), strict=False):
        if is_latest:
            yield record


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """All lines but the header and one that is not finished."""
    with path.open("rb") as stream:
        stream.readline()
        for number, line in enumerate(stream, start=2):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                raise UsageError(f"{path}: line {number} is broken; remove it, and its drive is played again") from None
            yield record


def _keys(path: Path) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Of each line, the drive's key and whether it is done."""
    pairs = np.fromiter(
        ((record["key"], record["state"] == DONE) for record in _records(path)), dtype=[("key", "u8"), ("done", "?")]
    )
    return pairs["key"], pairs["done"]


def _latest(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True for the last line of each key."""
    is_latest = np.zeros(len(keys), dtype=bool)
    _, backwards = np.unique(keys[::-1], return_index=True)
    is_latest[len(keys) - 1 - backwards] = True
    return is_latest


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        inner = sorted(before.keys() | now.keys())
        return [
            line
            for key in inner
            for line in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [f"{name}: {json.dumps(before)} there, {json.dumps(now)} now"]
