"""The world's end of the traffic: starts the process that runs SUMO and asks it for steps ahead of need."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from perception.core.errors import ConfigError, DriveError
from sim.traffic_types import StepRequest, TrafficFrame, TrafficPlan

EgoFront = tuple[float, float, float, float]
CLOSE_S = 5.0


def require_sumo() -> None:
    """Raise ConfigError if libsumo is not installed. It is looked for, not loaded: it runs in a process of its own."""
    if importlib.util.find_spec("libsumo") is None:
        raise ConfigError("traffic needs SUMO, which runs in a process of its own: pip install libsumo")


class Traffic:
    """SUMO in a child process. `ask` starts a step, `take` waits for it: the step runs while the caller renders.

    Raises ConfigError if libsumo is not installed, DriveError if the process fails, with what it said.
    """

    def __init__(self, plan: TrafficPlan) -> None:
        require_sumo()
        self._pipe: Connection[Any, Any]
        self._pipe, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
        self._asked = 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from sim.traffic_process import main; main({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            # Ctrl-C is for the caller, who may want to finish what was begun.
            start_new_session=True,
        )
        theirs.close()
        self._finalizer = weakref.finalize(self, _end, self._process, self._pipe)
        self._send(plan)

    def ask(self, ego: EgoFront | None) -> None:
        """Start one step. ego: x, y of its front bumper, yaw, speed at the end of the step; None: SUMO drives."""
        self._send(StepRequest(ego=ego))
        self._asked += 1

    @property
    def is_asked(self) -> bool:
        return self._asked > 0

    def take(self) -> TrafficFrame:
        """The oldest step asked for."""
        try:
            frame = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._failure(None) from error
        if isinstance(frame, str):
            raise self._failure(frame)
        self._asked -= 1
        taken: TrafficFrame = frame
        return taken

    def close(self) -> None:
        self._finalizer()
        self._log.close()

    def _send(self, item: object) -> None:
        try:
            self._pipe.send(item)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._failure(self._last_word()) from error

    def _last_word(self) -> str | None:
        """What the process sent before it ended, None if that were steps alone."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while self._pipe.poll():
                if isinstance(item := self._pipe.recv(), str):
                    return item
        return None

    def _failure(self, word: str | None) -> DriveError:
        if word is None:
            return DriveError(f"SUMO ended without a word; {self._said()}")
        return DriveError(f"SUMO failed: {word.strip().splitlines()[-1]}; {self._said()}")

    def _said(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        return f"it said: {text[-600:]}" if text else "it left no message"


def _end(process: "subprocess.Popen[bytes]", pipe: "Connection[Any, Any]") -> None:
    # The child leaves when its pipe closes; it is killed only if it hangs in a step.
    pipe.close()
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
