"""A consumer in another process that notes when each result came and when it was decoded."""

import multiprocessing
import time
from array import array
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.core.results import EndOfRun
from perception.queues.subscription import Delivery, Feed, Reading, ResultSubscription
from perception.queues.zenoh import open_feed

PATIENCE_S = 120.0


class TimedFeed:
    """A feed that remembers when it last handed out a payload."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.received_ns = 0

    def receive(self, timeout_s: float) -> Delivery | None:
        delivery = self._feed.receive(timeout_s)
        self.received_ns = time.monotonic_ns()
        return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        self._feed.acknowledge(delivery)

    def keep_to(self, producer: str) -> None:
        """Every run is wanted."""

    def is_gone(self, producer: str) -> bool:
        return self._feed.is_gone(producer)

    def close(self) -> None:
        self._feed.close()


class Consumer:
    """The process; use as a context. It reads runs until `runs` of them ended, then `receipts` gives what came."""

    def __init__(self, key: str, config: QueueConfig, *, runs: int = 1) -> None:
        self._link, far_link = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=consume, args=(far_link, key, config, runs), daemon=True)

    def __enter__(self) -> "Consumer":
        self._process.start()
        self._answer(PATIENCE_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.join(0 if error[0] is not None else PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()

    def receipts(self) -> tuple[NDArray[np.int64], int]:
        """What came, and how many results are known to be lost on the way. Raises QueueError where it failed.

        (N, 3), a row for each result: its sequence, when it was there as bytes, and when as a result (monotonic ns,
        which all processes of a machine share).
        """
        rows, gaps = self._answer(PATIENCE_S)
        return np.array(rows, dtype=np.int64).reshape(-1, 3), gaps

    def _answer(self, timeout_s: float) -> Any:
        try:
            answer = self._link.recv() if self._link.poll(timeout_s) else QueueError("it does not answer")
        except EOFError:
            answer = QueueError("its process ended")
        if isinstance(answer, QueueError):
            raise QueueError(f"the benchmark's consumer failed: {answer}")
        return answer


def consume(link: Connection, key: str, config: QueueConfig, runs: int) -> None:
    """The consumer's life: attach, say so, read until `runs` runs have ended, answer."""
    reading = Reading(follow=True, timeout_s=PATIENCE_S)
    try:
        feed = TimedFeed(open_feed(key, reading, config))
        rows = array("q")
        subscription = ResultSubscription(feed, reading)
        link.send("ready")
        for item in subscription:
            if isinstance(item, EndOfRun):
                runs -= 1
                if not runs:
                    break
                continue
            rows.extend((item.sequence, feed.received_ns, time.monotonic_ns()))
        subscription.close()
        link.send((rows, subscription.gaps))
    except QueueError as error:
        link.send(error)
