"""From DRIVES on a command line to drives, one at a time: folders, globs, manifests, and all of them remote."""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from perception.core.errors import UsageError
from perception.runtime.fleet.remote import glob_remote, holds_secret, is_remote, open_text, remote_children, shown_url
from perception.sources.open import SOURCES, FolderFormat, known_formats

MANIFESTS: Final = (".txt", ".jsonl", ".json", ".yaml", ".yml")
SCENE: Final = "#scene="
_FIELDS: Final = frozenset({"path", "format", "scene"})
_NO_PATH: Final = re.compile(r"[a-z0-9_]+:(?!//)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveRef:
    """One drive to play. path: as `open_drive` takes it, or a URL. format, scene: as in `open_drive`."""

    path: str
    format: str | None = None
    scene: str | None = None

    @property
    def shown(self) -> str:
        """For people, files and logs: without what a signed URL says behind its `?`, which is a secret."""
        path = shown_url(self.path)
        return path if self.scene is None else f"{path}{SCENE}{self.scene}"

    @property
    def key(self) -> int:
        """64 bits that stand for the drive."""
        return int(self.name[-16:], 16)

    @property
    def name(self) -> str:
        """Names the drive's folder: its last parts in plain letters, and a hash of the whole."""
        parts = [part for part in re.split(r"[^A-Za-z0-9]+", self.shown) if part]
        return f"{'-'.join(parts[-4:])[-60:]}-{hashlib.sha256(self.shown.encode()).hexdigest()[:16]}"


def expand(arguments: Sequence[str]) -> Iterator[DriveRef]:
    """The drives that the arguments name, in their order; nothing is read that is not asked for yet.

    A manifest (.txt, .jsonl: a drive a line; .json, .yaml: a list, or a mapping with `drives`) holds whatever an
    argument may be, relative to itself; an entry may also be a mapping with `path`, `format` and `scene`.
    Raises UsageError for an argument that names nothing, or that holds a secret.
    """
    for argument in arguments:
        if holds_secret(argument):
            raise UsageError(
                f"{shown_url(argument)}: a URL with a password or a signature is seen by "
                "everybody on this machine; put it into a manifest, or the credentials into the environment"
            )
        yield from _expand(argument)


def _expand(argument: str) -> Iterator[DriveRef]:
    path, _, scene = argument.partition(SCENE)
    if path.endswith(MANIFESTS):
        yield from _from_manifest(path)
    elif any(mark in path for mark in "*?[") and not holds_secret(path):
        yield from _from_glob(path, scene or None)
    elif is_remote(path) and path.endswith("/"):
        yield from (DriveRef(path=child, scene=scene or None) for child in remote_children(path))
    elif is_remote(path) or _NO_PATH.match(path):
        yield DriveRef(path=path, scene=scene or None)
    else:
        yield from _local(Path(path), scene or None)


def _local(path: Path, scene: str | None) -> Iterator[DriveRef]:
    """A drive, or the drives in a folder. A folder whose drives lie in it is these; one drive of a set is `#scene=`."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    here = path.resolve()
    if scene is not None or _is_drive(here, nested=False):
        yield DriveRef(path=str(here), scene=scene)
        return
    children = [child for child in sorted(here.iterdir()) if _is_drive(child)] if here.is_dir() else []
    if children:
        yield from (DriveRef(path=str(child)) for child in children)
    elif _is_drive(here):
        yield DriveRef(path=str(here))
    else:
        raise UsageError(f"{path}: no drive here, and none in it; `perception inspect` says what is looked for")


def _is_drive(path: Path, *, nested: bool = True) -> bool:
    """Whether a known format reads `path`. nested: also where the marks of the format lie in folders of it."""
    for name in known_formats():
        reader = SOURCES.get(name)
        if isinstance(reader, FolderFormat):
            marks = [mark for mark in reader.markers if nested or not mark.startswith("*/")]
            if path.is_dir() and any(True for mark in marks for _ in path.glob(mark)):
                return True
        elif reader is not None and reader.detect(str(path)):
            return True
    return False


def _from_glob(pattern: str, scene: str | None) -> Iterator[DriveRef]:
    found = glob_remote(pattern) if is_remote(pattern) else sorted(glob.glob(pattern))  # noqa: PTH207 - a text
    if not found:
        raise UsageError(f"{pattern}: nothing is called so")
    for path in found:
        if is_remote(path):
            yield DriveRef(path=path, scene=scene)
        else:
            yield from _local(Path(path), scene)


def _from_manifest(path: str) -> Iterator[DriveRef]:
    for number, entry in enumerate(_entries(path), start=1):
        where = f"{shown_url(path)}: entry {number}"
        if isinstance(entry, str):
            yield from _listed(_beside(path, entry, where))
        elif isinstance(entry, dict) and isinstance(entry.get("path"), str) and entry.keys() <= _FIELDS:
            texts = {name: None if entry.get(name) is None else str(entry[name]) for name in ("format", "scene")}
            yield DriveRef(path=_beside(path, entry["path"], where), **texts)
        else:
            raise UsageError(f"{where}: must be a path, or a mapping with path and perhaps format and scene")


def _listed(entry: str) -> Iterator[DriveRef]:
    """What an entry of a manifest names; one that names nothing is a drive that will fail, and stops no other."""
    found = _expand(entry)
    try:
        first = next(found)
    except UsageError:
        path, _, scene = entry.partition(SCENE)
        yield DriveRef(path=path, scene=scene or None)
        return
    yield first
    yield from found


def _entries(path: str) -> Iterator[Any]:
    """The entries of a manifest; of lines one at a time, so that millions fit."""
    with open_text(path) as stream:
        try:
            if path.endswith((".txt", ".jsonl")):
                for line in stream:
                    text = line.strip()
                    if text and not text.startswith("#"):
                        yield json.loads(text) if text[0] in '{"' else text
                return
            content = json.load(stream) if path.endswith(".json") else yaml.safe_load(stream)
        except (ValueError, yaml.YAMLError) as error:
            raise UsageError(f"{shown_url(path)}: not a manifest ({error})") from None
    entries = content.get("drives") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise UsageError(f"{shown_url(path)}: must hold a list of drives, or a mapping with `drives`")
    yield from entries


def _beside(manifest: str, entry: str, where: str) -> str:
    """An entry as seen from here: relative paths begin at the manifest."""
    if not entry:
        raise UsageError(f"{where}: an empty path")
    if is_remote(entry) or _NO_PATH.match(entry) or entry.startswith("/"):
        return entry
    if is_remote(manifest):
        return f"{manifest.rpartition('/')[0]}/{entry}"
    return str((Path(manifest).parent / entry).resolve())
