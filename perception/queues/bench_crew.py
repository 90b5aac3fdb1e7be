"""The consumers of the benchmark: processes that join whatever way they are told, or threads for `memory:`."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from perception.core.errors import QueueError
from perception.queues.bench_ends import Receiver, Way

PATIENCE_S = 60.0
NOTHING = -1
MAX_WAYS = 2
NAP_S = 0.01

Arrivals = list[tuple[int, int]]
"""Number and latency in ns of each message that came, in that order."""


class Progress:
    """The last number that each member has received on each way, and who is to pause, shared with the members."""

    def __init__(self, members: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._last: Any = context.RawArray("q", [NOTHING] * members * MAX_WAYS)
        self._is_paused: Any = context.RawArray("b", members)

    def reset(self) -> None:
        self._last[:] = [NOTHING] * len(self._last)

    def note(self, member: int, way: int, number: int) -> None:
        self._last[member * MAX_WAYS + way] = number

    def slowest(self, members: Sequence[int], way: int) -> int:
        """The last number of the member that is furthest behind."""
        return int(min(self._last[member * MAX_WAYS + way] for member in members))

    def pause(self, member: int, is_paused: bool) -> None:
        self._is_paused[member] = is_paused

    def is_paused(self, member: int) -> bool:
        return bool(self._is_paused[member])


class Crew:
    """Consumers that wait for orders; use as a context. in_threads: of this process instead of processes."""

    def __init__(self, members: int, *, in_threads: bool = False) -> None:
        self.progress = Progress(members)
        self._links: list[Connection] = []
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        for member in range(members):
            link, far_link = multiprocessing.Pipe()
            self._links.append(link)
            arguments = (far_link, self.progress, member)
            if in_threads:
                threading.Thread(target=serve, args=arguments, daemon=True).start()
            else:
                process = context.Process(target=serve, args=arguments, daemon=True)
                process.start()
                self._processes.append(process)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        for link in self._links:
            link.send(None)
        for process in self._processes:
            process.join(PATIENCE_S)

    @contextmanager
    def joined(self, members: Sequence[int], ways: Sequence[Way]) -> Iterator[dict[int, list[Arrivals]]]:
        """Members take part in `ways` while the block lasts; then what each received on each way is in the dict.

        Raises QueueError where one cannot take part.
        """
        self.progress.reset()
        arrivals: dict[int, list[Arrivals]] = {}
        for member in members:
            self._links[member].send(tuple(ways))
        answers = {member: self._answer(member) for member in members}
        errors = [answer for answer in answers.values() if isinstance(answer, QueueError)]
        try:
            if errors:
                raise errors[0]
            yield arrivals
        finally:
            joined = [member for member in members if not isinstance(answers[member], QueueError)]
            for member in joined:
                self._links[member].send("stop")
            arrivals.update({member: self._answer(member) for member in joined})

    @contextmanager
    def stalled(self, member: int) -> Iterator[None]:
        """A member does nothing while the block lasts: its process is stopped, or its thread asks for no message."""
        self.progress.pause(member, True)
        if self._processes:
            os.kill(self._processes[member].pid or 0, signal.SIGSTOP)
        try:
            yield
        finally:
            if self._processes:
                os.kill(self._processes[member].pid or 0, signal.SIGCONT)
            self.progress.pause(member, False)

    def _answer(self, member: int) -> Any:
        if not self._links[member].poll(PATIENCE_S):
            raise QueueError(f"consumer {member} of the benchmark does not answer")
        return self._links[member].recv()


def serve(link: Connection, progress: Progress, member: int) -> None:
    """A member's life: an order names the ways, the next one ends that, None ends all."""
    while (ways := link.recv()) is not None:
        try:
            receivers = [way.receiver() for way in ways]
        except Exception as error:
            link.send(QueueError(f"{type(error).__name__}: {error}"))
            continue
        arrivals: list[Arrivals] = [[] for _ in ways]
        threads = [
            threading.Thread(target=_receive, args=(receiver, arrivals[way], progress, member, way), daemon=True)
            for way, receiver in enumerate(receivers)
        ]
        for thread in threads:
            thread.start()
        link.send("ready")
        link.recv()
        for receiver in receivers:
            receiver.close()
        for thread in threads:
            thread.join(PATIENCE_S)
        link.send(arrivals)


def _receive(receiver: Receiver, arrivals: Arrivals, progress: Progress, member: int, way: int) -> None:
    for number, sent_ns in receiver:
        arrivals.append((number, time.monotonic_ns() - sent_ns))
        progress.note(member, way, number)
        while progress.is_paused(member):
            time.sleep(NAP_S)
