"""Drives that lie elsewhere: s3, gs and http through fsspec. Credentials come from the environment of each worker.

They are never arguments or settings: boto's and gcloud's own variables, files and instance roles are read by those
libraries (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...).
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, TextIO, cast
from urllib.parse import urlsplit, urlunsplit

from perception.core.errors import DriveError, UsageError

SCHEMES: Final = ("s3://", "gs://", "http://", "https://")
PREFIX: Final = "perception-fleet-"


def is_remote(path: str) -> bool:
    return path.startswith(SCHEMES)


@contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """A text file, here or elsewhere. Raises UsageError where it cannot be read."""
    try:
        if is_remote(path):
            system, inner = _system(path)
            with system.open(inner, "rt", encoding="utf-8") as stream:
                yield cast(TextIO, stream)
        else:
            with Path(path).open(encoding="utf-8") as stream:
                yield stream
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{shown_url(path)}: cannot be read ({_told(path, error)})") from None


def glob_remote(pattern: str) -> list[str]:
    """The URLs that a pattern fits, sorted. Raises UsageError where it cannot be listed."""
    system, inner = _system(pattern)
    try:
        return sorted(_url(pattern, str(found)) for found in system.glob(inner))
    except Exception as error:  # each file system has errors of its own
        raise UsageError(f"{shown_url(pattern)}: cannot be listed ({_told(pattern, error)})") from None


def remote_children(folder: str) -> list[str]:
    """The URLs of what lies in a folder, sorted: each is a drive. Raises UsageError for an empty one."""
    system, inner = _system(folder)
    try:
        found = sorted(_url(folder, str(child)) for child in system.ls(inner, detail=False))
    except Exception as error:  # each file system has errors of its own
        raise UsageError(f"{shown_url(folder)}: cannot be listed ({_told(folder, error)})") from None
    found = [child.rstrip("/") for child in found if child.rstrip("/") != folder.rstrip("/")]
    if not found:
        raise UsageError(f"{shown_url(folder)}: nothing lies there")
    return found


@contextmanager
def fetched(path: str, *, max_bytes: int, cache: Path | None = None) -> Iterator[str]:
    """A drive as a path on this machine, for the length of a `with` block: fetched, and removed afterwards.

    cache: where to; the system's folder of temporary files if None. What killed workers left there goes first.
    Raises DriveError where it cannot be had or is larger than `max_bytes`.
    """
    if not is_remote(path):
        yield path
        return
    folder = (cache or Path(tempfile.gettempdir())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{socket.gethostname()}-{os.getpid()}-", dir=folder) as mine:
        yield str(_fetch(path, Path(mine), max_bytes))


def _fetch(path: str, folder: Path, max_bytes: int) -> Path:
    """The file or folder at `path`, in `folder` under its own name."""
    system, inner = _system(path)
    try:
        files = _files(system, inner, max_bytes, shown_url(path))
        target = folder / (PurePosixPath(shown_url(path)).name or "drive")
        for remote, relative in files:
            local = target if relative is None else target / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(remote, str(local))
    except DriveError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise DriveError(f"{shown_url(path)}: cannot be fetched ({_told(path, error)})") from None
    return target


def _files(system: Any, inner: str, max_bytes: int, shown: str) -> list[tuple[str, PurePosixPath | None]]:
    """What to fetch: its name there, and where it goes in the drive's folder; None for a drive that is one file."""
    found = {inner: system.info(inner)} if system.isfile(inner) else system.find(inner, detail=True)
    if not found:
        raise DriveError(f"{shown}: nothing lies there")
    size = sum(int(info.get("size") or 0) for info in found.values())
    if size > max_bytes:
        raise DriveError(
            f"{shown}: {size / 1e9:.1f} GB, and {max_bytes / 1e9:.1f} GB are allowed; raise --max-drive-gb"
        )
    if list(found) == [inner]:
        return [(inner, None)]
    root = PurePosixPath(system._strip_protocol(inner))
    files: list[tuple[str, PurePosixPath | None]] = []
    for remote in sorted(found):
        relative = PurePosixPath(remote).relative_to(root)
        if ".." in relative.parts:
            raise DriveError(f"{shown}: an object is called {relative}, which would leave the drive's folder")
        if not remote.endswith("/"):
            files.append((remote, relative))
    return files


def _sweep(folder: Path) -> None:
    """Remove what workers of this machine that are no more left behind."""
    mine = f"{PREFIX}{socket.gethostname()}-"
    for left in folder.glob(f"{mine}*"):
        process = left.name.removeprefix(mine).partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists() and Path("/proc").is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _system(path: str) -> tuple[Any, str]:
    """The file system of a URL, and the path within."""
    try:
        from fsspec.core import url_to_fs

        system, inner = url_to_fs(path, use_listings_cache=False)
    except ImportError as error:
        raise UsageError(
            f"{shown_url(path)}: reading from there needs more packages ({error}); pip install 'perception[fleet]'"
        ) from None
    except ValueError as error:
        raise UsageError(f"{shown_url(path)}: {_told(path, error)}") from None
    return system, inner


def _url(like: str, found: str) -> str:
    """What a file system calls a path, as a URL again."""
    return found if is_remote(found) else f"{like.partition('://')[0]}://{found}"


def shown_url(path: str) -> str:
    """A path for people, files and logs: of a URL neither the signature behind its `?` nor the user before its `@`."""
    if not is_remote(path):
        return path
    parts = urlsplit(path)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def holds_secret(path: str) -> bool:
    """Whether a URL says more than where something lies."""
    return is_remote(path) and bool(urlsplit(path).query or "@" in urlsplit(path).netloc)


def _told(path: str, error: Exception) -> str:
    """An error's text without what is secret in a URL."""
    text = str(error) or type(error).__name__
    parts = urlsplit(path)
    for secret in (path, parts.query, parts.netloc.rpartition("@")[0]):
        text = text.replace(secret, "...") if secret and holds_secret(path) else text
    return text
