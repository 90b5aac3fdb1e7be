"""Both ends of each queue as the benchmark uses them: ours, and the bare library's with as many bytes.

Every message carries its number and when it was sent, by the clock that all processes of a machine share.
"""

import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from perception.config.schema import QueueConfig
from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.open import open_queue, subscribe

STAMP = struct.Struct("<QQ")
"""Number and sending time, with which the bytes of a bare message begin."""


class Sender(Protocol):
    def send(self, number: int) -> None: ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """Iterates (number, sending time) of messages; ends soon after another thread has closed it."""

    def __iter__(self) -> Iterator[tuple[int, int]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way from a producer to consumers: the queue at `url`, or with `is_bare` its library alone."""

    url: str
    is_bare: bool = False

    def sender(self, result: PerceptionResult, payload: bytes) -> Sender:
        """What sends `result` again and again, or bare `payload`."""
        if not self.is_bare:
            return OurSender(self.url, result)
        from perception.queues.bench_bare import bare_sender

        return bare_sender(self.url, payload)

    def receiver(self) -> Receiver:
        if not self.is_bare:
            return OurReceiver(self.url)
        from perception.queues.bench_bare import bare_receiver

        return bare_receiver(self.url)


class OurSender:
    """Each is a run of its own: a broker that still has the results of another one would drop these as doubles."""

    def __init__(self, url: str, result: PerceptionResult) -> None:
        self._queue = open_queue(url, QueueConfig(url=url, linger_s=0))
        self._result = replace(result, run_id=uuid.uuid4().hex)

    def send(self, number: int) -> None:
        self._queue.publish(replace(self._result, sequence=number, published_ns=time.monotonic_ns()))

    def close(self) -> None:
        self._queue.close()


class OurReceiver:
    def __init__(self, url: str) -> None:
        self._subscription = subscribe(url, start="latest", config=QueueConfig(url=url))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for item in self._subscription:
            if not isinstance(item, EndOfRun):
                yield item.sequence, item.published_ns

    def close(self) -> None:
        self._subscription.close()
