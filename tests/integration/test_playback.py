"""A replay that is steered while it runs: by keys on a real terminal, and by its control socket."""

import json
import os
import pty
import select
import socket
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perception.core.results import EndOfRun
from perception.queues.open import subscribe
from tests.integration.conftest import Perception, Start

COMMAND = "from perception.cli.main import main; main()"
PATIENCE_S = 120.0
REPLAY = ("replay", "synthetic:seed=1,duration=12", "--placement", "local")


class Remote:
    """The other end of a control socket."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        self._lines = self._socket.makefile("rb")

    def say(self, line: bytes) -> dict[str, Any]:
        self._socket.sendall(line + b"\n")
        reply: dict[str, Any] = json.loads(self._lines.readline())
        return reply

    def do(self, what: str, **more: float) -> dict[str, Any]:
        return self.say(json.dumps({"do": what, **more}).encode())

    def await_status(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not holds(status := self.do("status")):
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`perception ...` in the foreground of a terminal, and our end of it."""
    ours, theirs = pty.openpty()
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {COMMAND}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
    )  # fmt: skip
    is_over = threading.Event()
    reader = threading.Thread(target=_read_on, args=(ours, is_over))
    reader.start()
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        is_over.set()
        reader.join()
        os.close(theirs)
        os.close(ours)


def _read_on(terminal: int, is_over: threading.Event) -> None:
    """Somebody has to look, or a full terminal holds up who writes to it."""
    while not is_over.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)


def test_keys_steer_and_the_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    control = tmp_path / "control"
    results = f"mcap:{tmp_path / 'results.mcap'}"
    with on_a_terminal(*REPLAY, "--rate", "1", "--queue", results, "--control", str(control)) as (process, terminal):
        before = termios.tcgetattr(terminal)
        remote = Remote(control)
        remote.await_status(lambda status: status["results"] > 0)
        os.write(terminal, b" ")
        at = remote.await_status(lambda status: status["paused"])["results"]
        os.write(terminal, b"s")
        remote.await_status(lambda status: status["results"] > at)
        assert remote.do("status")["paused"]
        os.write(terminal, b"-")
        remote.await_status(lambda status: status["rate"] == 0.5)
        os.write(terminal, b"]")
        remote.await_status(lambda status: status["position_s"] > 5)
        os.write(terminal, b"xq")
        assert process.wait(PATIENCE_S) == 1
        assert termios.tcgetattr(terminal)[3] & termios.ECHO == before[3] & termios.ECHO != 0
        assert termios.tcgetattr(terminal)[3] & termios.ICANON
    assert not control.exists()


def test_a_socket_steers_and_each_seek_is_a_run_of_its_own(start: Start, tmp_path: Path) -> None:
    control, results = tmp_path / "control", f"mcap:{tmp_path / 'results.mcap'}"
    process = start(*REPLAY, "--rate", "1", "--queue", results, "--control", str(control), "--json")
    remote = Remote(control)
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    remote.await_status(lambda status: status["results"] > 0)
    assert remote.do("pause")["paused"]
    assert remote.do("seek", to_s=11.0)["paused"]
    assert remote.await_status(lambda status: status["position_s"] == 11.0)["results"] == 0
    remote.do("step")
    remote.await_status(lambda status: status["results"] == 1)
    assert remote.do("rate", rate=0)["rate"] == 0
    remote.do("resume")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert [json.loads(line)["reason"] for line in out.splitlines()] == ["interrupted", "completed"]
    runs: dict[str, list[int]] = {}
    for item in subscribe(results, start="earliest", follow=True, timeout_s=5):
        if not isinstance(item, EndOfRun):
            runs.setdefault(item.run_id, []).append(item.sequence)
        elif item.reason == "completed":
            break
    assert len(runs) == 2
    assert all(sequences == list(range(len(sequences))) for sequences in runs.values())


BAD = [
    b"pause", b"[]", b'{"do": "fly"}', b'{"do": "seek"}', b'{"do": "seek", "to_s": 1e9}', b'{"do": "rate"}',
    b'{"do": "seek", "to_s": -1}', b'{"do": "pause", "now": true}', b"\xff\xfe", b"",
]  # fmt: skip


def test_bad_requests_are_answered_and_change_nothing(start: Start, tmp_path: Path) -> None:
    control = tmp_path / "control"
    process = start(*REPLAY, "--rate", "0.01", "--queue", "memory:x", "--control", str(control), "--quiet")
    remote = Remote(control)
    for line in BAD:
        assert set(remote.say(line)) == {"error"}, line
    status = remote.do("status")
    assert (status["paused"], status["rate"]) == (False, 0.01)
    other = Remote(control)
    assert "more than" in other.say(b"x" * 5000)["error"]
    second = start(*REPLAY, "--queue", "memory:y", "--control", str(control))
    assert "another replay listens there" in second.communicate(timeout=PATIENCE_S)[1]
    assert second.returncode == 2
    remote.do("quit")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1


def test_what_a_killed_replay_left_is_replaced_but_no_file_of_yours(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("control")
    short = ("replay", "synthetic:duration=0.5", "--placement", "local", "--queue", "memory:x", "--control", "control")
    assert perception(*short).code == 0
    (tmp_path / "control").write_text("mine")
    said = perception(*short)
    assert said.code == 2
    assert "no socket" in said.err
    assert (tmp_path / "control").read_text() == "mine"
