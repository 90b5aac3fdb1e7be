"""What the checks of the contract work with: the queue under test, runs to publish, and how to complain."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from perception.config.schema import QueueConfig
from perception.core.ports import QueueItem, ResultQueue, Start, Subscription
from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.json_form import to_json
from perception.queues.open import open_queue, subscribe
from perception.queues.samples import sample_result

PATIENCE_S = 30.0


class RawQueue(ResultQueue, Protocol):
    """A producer that can also send bytes which are no result."""

    def send(self, payload: bytes) -> None: ...


@dataclass(frozen=True, kw_only=True)
class QueueKit:
    """The queue under test, and what it promises. url: an address that nobody else uses.

    promised_history: late consumers get what was published before, within `QueueConfig.history`. promised_overrun: no
    more than that is kept. promised_persistence: that history outlives its producer. promised_producers: several may
    publish at the same time. promised_groups: it remembers consumers by the names of their groups. config: logins,
    certificates and whatever else it needs.
    """

    url: str
    promised_history: bool = True
    promised_overrun: bool = True
    promised_persistence: bool = False
    promised_producers: bool = True
    promised_groups: bool = False
    config: QueueConfig = field(default_factory=QueueConfig)

    def produce(self, *, history: int = 100) -> ResultQueue:
        return open_queue(self.url, self._settings(history=history, linger_s=PATIENCE_S))

    def consume(
        self,
        start: Start = "earliest",
        *,
        follow: bool = False,
        group: str | None = None,
        max_age_s: float | None = None,
    ) -> Subscription:
        return subscribe(
            self.url,
            start=start,
            follow=follow,
            timeout_s=PATIENCE_S,
            group=group,
            max_age_s=max_age_s,
            config=self._settings(history=100),
        )

    def _settings(self, **changes: Any) -> QueueConfig:
        return self.config.model_copy(update={"url": self.url, **changes})


def publish_run(queue: ResultQueue, run_id: str, count: int, detections: int = 1) -> list[QueueItem]:
    items: list[QueueItem] = [*publish(queue, run_id, range(count), detections), end_of(run_id, count)]
    queue.publish(items[-1])
    return items


def publish(queue: ResultQueue, run_id: str, sequences: Sequence[int], detections: int = 1) -> list[PerceptionResult]:
    rng = np.random.default_rng(0)
    results = [sample_result(rng, sequence=n, run_id=run_id, detections=detections, modes=1) for n in sequences]
    for result in results:
        queue.publish(result)
    return results


def end_of(run_id: str, count: int) -> EndOfRun:
    return EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed")


def run_names(run_id: str, first: int, count: int) -> list[str]:
    return [*(f"{run_id}/{sequence}" for sequence in range(first, count)), f"{run_id}/end"]


def names(items: "Subscription | Iterator[QueueItem] | Sequence[QueueItem]") -> list[str]:
    return [f"{item.run_id}/{'end' if isinstance(item, EndOfRun) else item.sequence}" for item in items]


def is_same(got: QueueItem, sent: QueueItem) -> bool:
    if isinstance(got, EndOfRun) or isinstance(sent, EndOfRun):
        return got == sent
    if got.world_SE3_ego is None or sent.world_SE3_ego is None:
        return got.world_SE3_ego is sent.world_SE3_ego and to_json(got) == to_json(sent)
    # A pose travels as a quaternion: its last bits may differ.
    return np.allclose(got.world_SE3_ego, sent.world_SE3_ego, rtol=0, atol=1e-9) and to_json(
        replace(got, world_SE3_ego=None)
    ) == to_json(replace(sent, world_SE3_ego=None))


def await_consumer(queue: ResultQueue) -> None:
    await_true(queue.has_consumer, "the producer sees no consumer")


def await_true(is_true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        expect(time.monotonic() < deadline, f"{complaint} after {PATIENCE_S:g} s")
        time.sleep(0.005)


def expect(is_true: bool, complaint: str) -> None:
    if not is_true:
        raise AssertionError(complaint)
