"""Calls to an actor of this machine over a socket of its own, past Ray's task path.

Ray starts, watches and kills the actor; what a frame needs goes here. A call of Ray's costs both sides more than a
millisecond and copies through a gRPC thread or the object store; here it is one pickle with its arrays out of band.
Both ends are processes of one run; the socket lies in a folder that only its user may enter.
"""

import pickle
import queue
import shutil
import socket
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

MAX_PARTS = 512
"""Buffers of one system call; the system takes 1024 at most."""


class LineServer:
    """The actor's end: `work` is called with what comes, in order, in one thread, which `prepare` makes ready first.

    A second thread takes in what arrives meanwhile, so that the caller is never held up by the work.
    """

    def __init__(self, work: Callable[..., Any], prepare: Callable[[], None]) -> None:
        self._work, self._prepare = work, prepare
        self._calls: queue.SimpleQueue[tuple[int, bool, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._folder = tempfile.mkdtemp(prefix="perception-")
        self.path = str(Path(self._folder) / "line")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        threading.Thread(target=self._take_in, name="line-reader", daemon=True).start()

    def _take_in(self) -> None:
        line, _ = self._listener.accept()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        threading.Thread(target=self._serve, args=(line,), name="line-worker", daemon=True).start()
        with suppress(EOFError, OSError):
            while True:
                self._calls.put(receive(line))
        self._calls.put(None)

    def _serve(self, line: socket.socket) -> None:
        self._prepare()
        with line, suppress(OSError):
            while (call := self._calls.get()) is not None:
                number, is_asked, arguments = call
                try:
                    answer, error = self._work(*arguments), None
                except Exception as problem:
                    problem.add_note(f"In the actor:\n{traceback.format_exc()}")
                    answer, error = None, problem
                if is_asked or error is not None:
                    send(line, (number, answer, error))


class DirectLine:
    """The caller's end. Calls return at once: a thread sends, another one receives and settles the futures.

    When the actor is gone every open future, and every later one, raises RayActorError, as Ray's own would.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._numbers = count()
        self._lock = threading.Lock()
        self._open: dict[int, Future[Any]] = {}
        self._is_broken = False
        self._on_broken: Callable[[], None] | None = None
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._send_all, name="line-sender", daemon=True).start()
        threading.Thread(target=self._receive_all, name="line-receiver", daemon=True).start()

    def tell(self, *arguments: Any) -> None:
        """Have the actor work on `arguments`; nothing comes back."""
        self._outbox.put((next(self._numbers), False, arguments))

    def ask(self, *arguments: Any) -> Future[Any]:
        """Have the actor work on `arguments`; what it returns or raises."""
        answer: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            is_broken = self._is_broken
            if not is_broken:
                self._open[number] = answer
        if is_broken:
            answer.set_exception(_gone())
        else:
            self._outbox.put((number, True, arguments))
        return answer

    def on_broken(self, call: Callable[[], None]) -> None:
        """Call this, in a thread of the line's, once the actor is gone; at once if it is."""
        with self._lock:
            self._on_broken = call
            is_broken = self._is_broken
        if is_broken:
            call()

    def close(self) -> None:
        """May be called again."""
        self._outbox.put(None)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send_all(self) -> None:
        with suppress(OSError):
            while (call := self._outbox.get()) is not None:
                send(self._socket, call)

    def _receive_all(self) -> None:
        with self._socket, suppress(EOFError, OSError):
            while True:
                number, answer, error = receive(self._socket)
                with self._lock:
                    outcome = self._open.pop(number, None)
                if outcome is not None:
                    if error is not None:
                        outcome.set_exception(error)
                    else:
                        outcome.set_result(answer)
        self._outbox.put(None)
        with self._lock:
            self._is_broken = True
            lost, self._open = list(self._open.values()), {}
            on_broken = self._on_broken
        if on_broken is not None:
            on_broken()
        for outcome in lost:
            outcome.set_exception(_gone())


def send(line: socket.socket, item: Any) -> None:
    """One object: the number of parts, their sizes, the pickle, and its arrays as they lie in memory."""
    buffers: list[memoryview] = []
    body = pickle.dumps(item, protocol=5, buffer_callback=lambda one: buffers.append(one.raw()))
    sizes = [len(body), *(one.nbytes for one in buffers)]
    head = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    parts = [memoryview(head), memoryview(body), *(one for one in buffers if one.nbytes)]
    while parts:
        sent = line.sendmsg(parts[:MAX_PARTS])
        while parts and sent >= parts[0].nbytes:
            sent -= parts.pop(0).nbytes
        if sent:
            parts[0] = parts[0][sent:]


def receive(line: socket.socket) -> Any:
    """The next object; its arrays may be written to. Raises EOFError where the other end has gone."""
    (parts,) = struct.unpack("<I", _exactly(line, 4))
    sizes = struct.unpack(f"<{parts}Q", _exactly(line, 8 * parts))
    whole = memoryview(_exactly(line, sum(sizes)))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(whole[at : at + size])
        at += size
    return pickle.loads(pieces[0], buffers=pieces[1:])


def _exactly(line: socket.socket, size: int) -> bytearray:
    whole = bytearray(size)
    rest = memoryview(whole)
    while rest:
        taken = line.recv_into(rest)
        if not taken:
            raise EOFError("the other end has gone")
        rest = rest[taken:]
    return whole


def _gone() -> RayActorError:
    return RayActorError(error_msg="it closed its line")
