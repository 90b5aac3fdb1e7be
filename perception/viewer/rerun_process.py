"""Rerun's viewer as a process of its own, bound to this machine.

The functions of `rerun` that serve bind all interfaces (0.0.0.0); only its program can be told otherwise. It would
also send figures of its use to its makers; here it does not.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from perception.core.errors import UsageError

LOOPBACK = "127.0.0.1"
START_S = 30.0
STEP_S = 0.05
STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerProcess:
    """A viewer that runs. data_url: where recordings are sent. page_url: what a browser opens; None for a window."""

    process: "subprocess.Popen[bytes]"
    data_url: str
    page_url: str | None

    def wait(self) -> None:
        """Until the user closes it."""
        self.process.wait()


@contextlib.contextmanager
def viewer_process(*, web_port: int | None, memory_limit: str) -> Iterator[ViewerProcess]:
    """Start a window, or with `web_port` a server for browsers; it ends with the block.

    memory_limit: what it keeps for viewers that come later or scroll back, as `1GiB`; the oldest goes first.
    Raises UsageError where it does not start: the port is taken, or there is no display.
    """
    if web_port is not None:
        _check_free(web_port)
    port = _free_port()
    command = [sys.executable, "-m", "rerun_cli", "--bind", LOOPBACK, "--port", str(port)]
    command += ["--server-memory-limit", memory_limit, "--memory-limit", memory_limit, "--hide-welcome-screen"]
    if web_port is not None:
        command += ["--serve-web", "--web-viewer-port", str(web_port)]
    data_url = f"rerun+http://{LOOPBACK}:{port}/proxy"
    page_url = None if web_port is None else f"http://{LOOPBACK}:{web_port}/?url={quote(data_url, safe='')}"
    ports = [port] if web_port is None else [port, web_port]
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "output"
        with said.open("wb") as output:
            process = subprocess.Popen(
                command, env=_quiet(Path(folder)), stdout=output, stderr=output, start_new_session=True
            )
        try:
            _await_ports(process, ports, said)
            yield ViewerProcess(process=process, data_url=data_url, page_url=page_url)
        finally:
            _stop(process)


def _quiet(folder: Path) -> dict[str, str]:
    """The environment with settings of Rerun's under which it sends nothing anywhere."""
    settings = folder / "rerun" / "analytics.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"analytics_enabled": False, "analytics_id": "", "metadata": {}}))
    return {**os.environ, "XDG_CONFIG_HOME": str(folder), "RERUN_APP_ONLY": "true", "NO_COLOR": "1"}


def _await_ports(process: "subprocess.Popen[bytes]", ports: list[int], said: Path) -> None:
    deadline = time.monotonic() + START_S
    while not all(_is_open(port) for port in ports):
        if process.poll() is not None or time.monotonic() > deadline:
            last = said.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise UsageError(
                f"the viewer did not start ({last[0]}); without a display use --web for a browser, or --save FILE.rrd"
            )
        time.sleep(STEP_S)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UsageError(f"--port {port}: cannot be used ({error.strerror}); choose another") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the viewer and the Python that started it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
