"""A socket that steers a replay: one JSON object a line, each answered by one."""

import json
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from perception.core.errors import UsageError
from perception.pipeline.playback import Playback

MAX_LINE_BYTES: Final = 4096

Finite = Annotated[float, msgspec.Meta(ge=0)]


Do = Literal["pause", "resume", "step", "seek", "rate", "quit", "status"]


class Command(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """do: what; to_s: where to seek; rate: multiple of real time, 0 for as fast as it goes."""

    do: Do
    to_s: Finite | None = None
    rate: Finite | None = None


@contextmanager
def steered_by_socket(playback: Playback, path: Path) -> Iterator[None]:
    """Listen at `path`, which only its owner may open, until the end. Raises UsageError where that is not possible."""
    _clear(path)
    before = os.umask(0o177)
    try:
        server = _Server(path, playback)
    except OSError as error:
        raise UsageError(f"--control {path}: {error.strerror or error}; choose another name") from error
    finally:
        os.umask(before)
    listener = threading.Thread(target=server.serve_forever, args=(0.05,), name="playback-socket", daemon=True)
    listener.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def answer(playback: Playback, line: bytes) -> dict[str, Any]:
    """Do what a line says. Whatever is wrong with it becomes an answer, and changes nothing."""
    try:
        command = msgspec.json.decode(line, type=Command)
        _do(playback, command)
    except (msgspec.DecodeError, UsageError) as error:
        hint = f"; known are {', '.join(get_args(Do))}" if str(error).endswith("`$.do`") else ""
        return {"error": f"{error}{hint}"}
    status = playback.status
    return {
        "position_s": round(status.position_s, 3),
        "duration_s": status.duration_s,
        "rate": status.rate if status.rate != float("inf") else 0,
        "paused": status.paused,
        "results": status.results,
    }


def _do(playback: Playback, command: Command) -> None:
    if command.do == "seek":
        if command.to_s is None:
            raise UsageError("seek: to_s is missing, in seconds after the first message")
        playback.seek(command.to_s)
    elif command.do == "rate":
        if command.rate is None:
            raise UsageError("rate: rate is missing, a multiple of real time, or 0 for as fast as it goes")
        playback.set_rate(command.rate or float("inf"))
    elif command.do != "status":
        {"pause": playback.pause, "resume": playback.resume, "step": playback.step, "quit": playback.quit}[command.do]()


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens at. Raises UsageError where somebody does, or it is something else."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"--control {path}: it exists and is no socket; choose another name")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise UsageError(f"--control {path}: another replay listens there; choose another name")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, playback: Playback) -> None:
        self.playback = playback
        super().__init__(str(path), _Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):
            while line := self.rfile.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    self._say({"error": f"a line of more than {MAX_LINE_BYTES} bytes"})
                    return
                self._say(answer(self.server.playback, line))

    def _say(self, reply: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(reply).encode() + b"\n")
