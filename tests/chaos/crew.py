"""The processes of a service under attack, and how each of them is killed and comes back."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from perception.pipeline.run_state import LOCK_FILE
from tests.contract.brokers import NatsServer
from tests.processes import holders_of

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("driver", "engine", "hung engine", "broker", "consumer")


class Crew:
    """A broker with its data on disk, a supervised replay in a loop, and a consumer in a durable group.

    `placement`: `local` has no engine processes. The service restarts driver and engine, the crew broker and consumer.
    standby: the supervisor keeps a spare driver.
    """

    def __init__(
        self, folder: Path, drive: Path, placement: str, options: Sequence[str] = (), *, standby: bool = False
    ) -> None:
        self.book = folder / "book"
        self.log = folder / "driver.log"
        self.server = NatsServer(folder)
        self._state = folder / "state"
        self._supervise = ("supervise", "--restarts", "20", *(("--standby",) if standby else ()))
        self.url = f"nats://127.0.0.1:{self.server.port}/chaos"
        self._options = (
            "replay", str(drive), "--loop", "--json", "--queue", self.url, "--placement", placement,
            "--resume", str(self._state), "--set", "model.score_threshold=0.0", "--set", "runtime.threads=1",
            *options,
        )  # fmt: skip
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._consumer: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.server.start()
        self._start_consumer()
        command = ["-c", "from perception.cli.main import main; main()", *self._supervise]
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, *command, *self._options], cwd=ROOT, env=_environment(), stdout=log, stderr=log
            )

    def kill(self, target: str) -> bool:
        """As by `kill -9`; False where there is no such process at this moment."""
        if target == "broker":
            self.server.kill()
            self.server.start()
            return True
        if target == "consumer":
            assert self._consumer is not None
            self._consumer.kill()
            self._consumer.wait()
            self._start_consumer()
            return True
        return self.signal(target, signal.SIGKILL)

    def signal(self, target: str, number: signal.Signals, choice: int = 0) -> bool:
        """Send a signal to the driver, or to one of the engine's processes."""
        found = self._drivers() if target == "driver" else self._engines()
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(found[choice % len(found)], number)
            return True
        return False

    def check(self) -> None:
        """Raises AssertionError where the service has given up."""
        assert self._supervisor is not None
        assert self._supervisor.poll() is None, self.log.read_text()[-3000:]

    def stop(self) -> int:
        """End the run in order; the service's exit code."""
        assert self._supervisor is not None
        self._supervisor.terminate()
        return self._supervisor.wait(120)

    def close(self) -> None:
        """Leave nothing behind."""
        for process in (self._supervisor, self._consumer):
            if process is not None and process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
                process.wait()
        self.server.kill()

    def _start_consumer(self) -> None:
        self._consumer = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.consumer", self.url, str(self.book)], cwd=ROOT, env=_environment()
        )

    def _drivers(self) -> list[int]:
        """The child that works on the run: a spare does not hold its lock."""
        assert self._supervisor is not None
        return holders_of(self._state / LOCK_FILE, psutil.Process(self._supervisor.pid).children())

    def _engines(self) -> list[int]:
        found = []
        for driver in self._drivers():
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(driver).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::StageWorker"):
                            found.append(child.pid)
        return sorted(found)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
