"""When a lost engine process is replaced, when a killed command is started again, and when it is enough."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.cli.standby import VARIABLE, Turn
from perception.cli.supervise import Supervisor, state_folder
from perception.config.schema import SupervisionConfig
from perception.core.errors import EngineError, UsageError
from perception.runtime.supervision import LONGEST_PAUSE_S, RestartPolicy


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_pauses_grow_and_then_it_is_enough() -> None:
    policy = RestartPolicy(SupervisionConfig(max_restarts=7, within_s=100), Clock())
    assert [policy.restart("fusion", "killed") for _ in range(7)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    with pytest.raises(EngineError, match=r"restarted 7 times within 100 s.*the last loss: fusion: killed"):
        policy.restart("fusion", "killed")


@given(st.lists(st.tuples(st.sampled_from(["restart", "progress"]), st.floats(0, 40)), max_size=60))
def test_it_gives_up_exactly_when_there_were_too_many_without_progress(events: list[tuple[str, float]]) -> None:
    config, clock = SupervisionConfig(max_restarts=3, within_s=60), Clock()
    policy, recent = RestartPolicy(config, clock), list[float]()
    for what, after_s in events:
        clock.now_s += after_s
        if what == "progress":
            policy.progress()
            recent = []
            continue
        recent = [time_s for time_s in recent if clock.now_s - time_s <= config.within_s]
        if len(recent) >= config.max_restarts:
            with pytest.raises(EngineError):
                policy.restart("all", "killed")
        else:
            recent.append(clock.now_s)
            assert 0 <= policy.restart("all", "killed") <= LONGEST_PAUSE_S


class Child:
    def __init__(self, code: int) -> None:
        self._code = code

    def wait(self) -> int:
        return self._code

    def poll(self) -> int | None:
        return self._code


def run(folder: Path, codes: list[int], on_start: Callable[[int], None] = lambda _: None, **changes: Any) -> int:
    """The exit code of a supervisor whose command ends with each of `codes` in turn; all of them must be needed."""
    clock, left = Clock(), list(codes)

    def start(_: tuple[str, ...], turn: int | None) -> Any:
        on_start(len(codes) - len(left))
        return cast("Any", Child(left.pop(0)))

    settings = {"restarts": 3, "within_s": 300.0} | changes
    code = Supervisor(("replay",), folder, start=start, now_s=clock, sleep=clock.sleep, **settings).run()
    assert left == []
    return code


def test_a_killed_command_is_started_again_and_one_that_ended_is_not(tmp_path: Path) -> None:
    assert run(tmp_path, [-signal.SIGKILL, -signal.SIGSEGV, 3]) == 3
    assert run(tmp_path, [1]) == 1


def test_too_many_deaths_without_progress_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [-signal.SIGABRT] * 4) == 1
    assert "replay was killed (SIGABRT) after 3 restarts within 300 s without a new result" in capsys.readouterr().err


def test_deaths_between_which_results_were_published_do_not_count(tmp_path: Path) -> None:
    def publish(count: int) -> None:
        (tmp_path / "run.json").write_text(json.dumps({"run_id": "r", "published": count}))

    def stand_still(count: int) -> None:
        (tmp_path / "run.json").write_text(json.dumps({"run_id": "r", "published": 0, "saved_ns": count}))

    assert run(tmp_path, [-signal.SIGKILL] * 9 + [0], publish) == 0
    stand_still(0)
    assert run(tmp_path, [-signal.SIGKILL] * 4, stand_still) == 1


def test_a_result_of_any_vehicle_of_a_service_is_progress(tmp_path: Path) -> None:
    for name in ("anna", "berta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"run_id": name, "published": 0}))

    def publish(count: int) -> None:
        (tmp_path / "berta" / "run.json").write_text(json.dumps({"run_id": "berta", "published": count + 1}))

    assert run(tmp_path, [-signal.SIGKILL] * 9 + [0], publish) == 0
    assert run(tmp_path, [-signal.SIGKILL] * 4) == 1


def test_a_command_must_keep_its_state() -> None:
    assert state_folder(("replay", "x", "--resume", "out/state")) == Path("out/state")
    assert state_folder(("replay", "--resume=out/state", "x")) == Path("out/state")
    with pytest.raises(UsageError, match="--resume DIR"):
        state_folder(("replay", "x"))


class Publisher(Child):
    """A child that publishes while it is waited for, and ends after a while; as a spare it waits for its turn first."""

    def __init__(self, folder: Path, turn: int | None, code: int) -> None:
        super().__init__(code)
        self._folder = folder
        self._turn = None if turn is None else os.dup(turn)
        self.was_told: bytes | None = None
        self._published = 0

    def wait(self, timeout: float | None = None) -> int:
        if self._turn is not None:
            self.was_told = os.read(self._turn, 1)
            os.close(self._turn)
            self._turn = None
        if timeout is not None and self.was_told != b"":
            self._published += 1
            (self._folder / "run.json").write_text(json.dumps({"run_id": f"{id(self)}", "published": self._published}))
            raise subprocess.TimeoutExpired("replay", timeout)
        return self._code

    def poll(self) -> int | None:
        return None if self._turn is not None else self._code


class Corpse(Publisher):
    """A spare that died while it waited."""

    def poll(self) -> int | None:
        return -signal.SIGKILL


def supervise(folder: Path, codes: list[int], spare: type[Publisher] = Publisher) -> list[Publisher]:
    """The children of a supervisor with a spare, in the order in which they were started."""
    children: list[Publisher] = []

    def start(_: tuple[str, ...], turn: int | None) -> Any:
        kind = Publisher if turn is None else spare
        children.append(kind(folder, turn, codes[len(children)]))
        return children[-1]

    clock = Clock()
    supervisor = Supervisor(
        ("replay",), folder, restarts=3, within_s=300.0, standby=True, start=start, now_s=clock, sleep=clock.sleep
    )
    assert supervisor.run() == codes[-2]
    return children


def test_a_spare_is_started_once_results_were_published_and_takes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    children = supervise(tmp_path, [-signal.SIGKILL, 0, 0])
    assert [child.was_told for child in children] == [None, b"\n", b""]  # the last one was sent home
    assert "the spare takes over" in capsys.readouterr().err


def test_a_spare_that_died_while_it_waited_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    children = supervise(tmp_path, [-signal.SIGKILL, -signal.SIGKILL, 0, 0], Corpse)
    assert [child.was_told for child in children] == [None, b"", None, b""]
    assert "starting it again" in capsys.readouterr().err


def test_a_turn_comes_or_never_will(monkeypatch: pytest.MonkeyPatch) -> None:
    Turn().wait()  # no spare: at once
    for told, code in ((b"\n", None), (b"", 0)):
        reading, writing = os.pipe()
        monkeypatch.setenv(VARIABLE, f"{reading}")
        turn = Turn()
        assert turn.is_awaited
        assert VARIABLE not in os.environ
        os.write(writing, told)
        os.close(writing)
        if code is None:
            turn.wait()
            assert not turn.is_awaited
        else:
            with pytest.raises(click.exceptions.Exit) as ended:
                turn.wait()
            assert ended.value.exit_code == code
