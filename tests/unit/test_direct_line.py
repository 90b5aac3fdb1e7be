"""Calls over a socket of our own: in order, with arrays, errors as themselves, and an end that is noticed."""

import threading
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import RayActorError

from perception.core.errors import ModelError
from perception.runtime.direct_line import DirectLine, LineServer

PATIENCE_S = 30.0


class Worker:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.may_go_on = threading.Event()

    def work(self, number: int, array: np.ndarray | None = None) -> object:
        self.seen.append(number)
        if number < 0:
            raise ModelError(f"{number} is no number")
        if number == 99:
            self.may_go_on.wait(PATIENCE_S)
        return (tuple(self.seen), None if array is None else array.sum())


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def line(worker: Worker) -> DirectLine:
    return DirectLine(LineServer(worker.work, lambda: None).path)


def test_calls_are_worked_on_in_order_and_arrays_come_whole(line: DirectLine) -> None:
    line.tell(1)
    line.tell(2, np.zeros(0, dtype=np.float32))
    seen, total = line.ask(3, np.ones((1000, 1000), dtype=np.float32)).result(PATIENCE_S)
    assert seen == (1, 2, 3)
    assert total == 1e6
    line.close()


def test_the_caller_does_not_wait_for_the_work(line: DirectLine, worker: Worker) -> None:
    big = np.ones(4_000_000, dtype=np.uint8)
    answers = [line.ask(99, big), *(line.ask(number, big) for number in range(5))]
    assert not any(answer.done() for answer in answers)
    worker.may_go_on.set()
    assert answers[-1].result(PATIENCE_S)[0] == (99, 0, 1, 2, 3, 4)
    line.close()


def test_an_error_is_raised_as_what_it_was_and_the_line_goes_on(line: DirectLine) -> None:
    line.tell(-2)
    with pytest.raises(ModelError, match="-1 is no number") as caught:
        line.ask(-1).result(PATIENCE_S)
    assert "In the actor" in caught.value.__notes__[0]
    assert line.ask(5).result(PATIENCE_S)[0] == (-2, -1, 5)
    line.close()


def test_open_and_later_calls_fail_when_the_other_end_goes(line: DirectLine, worker: Worker) -> None:
    told = threading.Event()
    line.on_broken(told.set)
    answer = line.ask(99)
    line.close()
    with pytest.raises(RayActorError):
        answer.result(PATIENCE_S)
    assert told.wait(PATIENCE_S)
    with pytest.raises(RayActorError):
        line.ask(1).result(PATIENCE_S)
    worker.may_go_on.set()


def test_only_its_user_may_enter_the_folder_of_the_socket(worker: Worker) -> None:
    server = LineServer(worker.work, lambda: None)
    folder = Path(server.path).parent
    assert folder.stat().st_mode & 0o077 == 0
    line = DirectLine(server.path)
    assert line.ask(1).result(PATIENCE_S)[0] == (1,)
    assert not folder.exists()
    line.close()
