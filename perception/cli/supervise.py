"""`perception supervise`: runs a command in a process of its own and starts it again whenever it is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import click

from perception.cli.main import EXIT_FAILED
from perception.cli.standby import VARIABLE, Spare
from perception.core.errors import UsageError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
STATE_FILE = "run.json"  # not imported: the supervisor is a few megabytes, without numpy and torch
WITH_STANDBY = ("replay", "serve")
LOOK_S = 0.5
"""How often the supervisor looks whether the command got so far that a spare can be started without disturbing it."""

Start = Callable[[tuple[str, ...], int | None], "subprocess.Popen[bytes]"]
"""Starts the command; the file that it waits for its turn on, None where it begins at once."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--restarts", type=click.IntRange(0, 10_000), default=5, show_default=True,
    help="Give up after so many restarts within --within and no new result in between.",
)  # fmt: skip
@click.option(
    "--within", "within_s", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True, metavar="S"
)
@click.option(
    "--standby", is_flag=True, help="Keep a second process that has loaded everything, to take over at once; costs the "
    "memory of one. For replay and serve.",
)  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_context
def supervise(ctx: click.Context, *, restarts: int, within_s: float, standby: bool, command: tuple[str, ...]) -> None:
    """Run `perception COMMAND...`, which must have `--resume DIR`, and start it again whenever a signal ends it.

    A command that ends by itself, well or with an error, is not started again. Ctrl-C and SIGTERM are handed on.

    Examples: perception supervise replay DRIVE --queue nats://127.0.0.1:4222/results --resume out/state;
    perception supervise --standby serve CONFIG --resume out/state
    """
    folder = state_folder(command)
    if standby and command[0] not in WITH_STANDBY:
        raise UsageError(f"--standby: {command[0]} cannot wait for its turn; {' and '.join(WITH_STANDBY)} can")
    supervisor = Supervisor(command, folder, restarts=restarts, within_s=within_s, standby=standby)
    ctx.exit(supervisor.run())


def state_folder(command: tuple[str, ...]) -> Path:
    """The folder that the command keeps its state in. Raises UsageError where it keeps none."""
    for index, word in enumerate(command):
        if word == "--resume" and index + 1 < len(command):
            return Path(command[index + 1])
        if word.startswith("--resume="):
            return Path(word.removeprefix("--resume="))
    raise UsageError("supervise: the command needs `--resume DIR`, without which it would begin anew after each death")


class Supervisor:
    """Runs a command until it ends by itself.

    standby: keep a spare that has loaded everything, once the command has published something. `now_s` is a monotonic
    clock, `sleep` waits.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        folder: Path,
        *,
        restarts: int,
        within_s: float,
        standby: bool = False,
        start: Start | None = None,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._command, self._folder = command, folder
        self._restarts, self._within_s, self._standby = restarts, within_s, standby
        self._start, self._now_s, self._sleep = start or _start, now_s, sleep
        self._recent: deque[float] = deque()
        self._child: subprocess.Popen[bytes] | None = None
        self._spare: Spare | None = None
        self._stopped_by: int | None = None

    def run(self) -> int:
        """Its exit code; 1 where it was killed too often or we were told to stop and it died of it."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._stopped_by is None:
                found = self._read_state()
                self._child = self._take_spare() or self._start(self._command, None)
                code = self._wait(self._child, found)
                if code >= 0:
                    return code
                if self._stopped_by is None and not self._may_restart(
                    signal.Signals(-code).name, has_progressed=self._read_state() != found
                ):
                    break
            return EXIT_FAILED
        finally:
            if self._spare is not None:
                self._spare.dismiss()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self, child: "subprocess.Popen[bytes]", found: "State") -> int:
        """Wait for the child's end; start a spare once it has gone on from the state that it `found`."""
        while self._standby and self._spare is None and self._stopped_by is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(LOOK_S)
            if self._read_state() != found:
                self._spare = Spare(lambda turn: self._start(self._command, turn))
        return child.wait()

    def _take_spare(self) -> "subprocess.Popen[bytes] | None":
        """The spare, told to begin; None where there is none, or it died while it waited."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        if spare.is_alive:
            return spare.begin()
        spare.dismiss()
        return None

    def _may_restart(self, by: str, *, has_progressed: bool) -> bool:
        now_s = self._now_s()
        if has_progressed:
            self._recent.clear()
        while self._recent and now_s - self._recent[0] > self._within_s:
            self._recent.popleft()
        if len(self._recent) >= self._restarts:
            what = f"killed ({by}) after {len(self._recent)} restarts within {self._within_s:g} s without a new result"
            click.echo(f"error: {self._command[0]} was {what}", err=True)
            return False
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (len(self._recent) - 1)) if self._recent else 0.0
        self._recent.append(now_s)
        how = "the spare takes over" if self._spare is not None and self._spare.is_alive else "starting it again"
        click.echo(f"{self._command[0]} was killed ({by}); {how} in {pause_s:g} s", err=True)
        self._sleep(pause_s)
        return True

    def _read_state(self) -> "State":
        """Which runs there are (a service has one for each vehicle), and how many results each has published."""
        found = {}
        for file in (self._folder / STATE_FILE, *sorted(self._folder.glob(f"*/{STATE_FILE}"))):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                state = json.loads(file.read_bytes())
                found[file] = state["run_id"], state["published"]
        return found

    def _stop(self, number: int, frame: object) -> None:
        self._stopped_by = number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


State = dict[Path, tuple[object, object]]
"""Run id and number of published results, by the file that says so."""


def _start(command: tuple[str, ...], turn: int | None) -> "subprocess.Popen[bytes]":
    program = "from perception.cli.main import main; main()"
    environment = dict(os.environ) if turn is None else {**os.environ, VARIABLE: f"{turn}"}
    # A session of its own: Ctrl-C reaches it through us, once.
    return subprocess.Popen(
        [sys.executable, "-c", program, *command],
        start_new_session=True,
        env=environment,
        pass_fds=() if turn is None else (turn,),
    )
