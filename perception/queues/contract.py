"""What every queue must do, as plain functions: run them over your own kind of queue from any test framework.

Each function of `CHECKS` takes a `QueueKit` on an address of its own and raises AssertionError where the queue falls
short. With pytest: `@pytest.mark.parametrize("check", CHECKS)`, and `check(kit)` in the body.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.core.ports import QueueItem, ResultQueue, Start, Subscription
from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.codec import encode
from perception.queues.json_form import to_json
from perception.queues.open import open_queue, subscribe
from perception.queues.samples import sample_result

PATIENCE_S = 30.0


class RawQueue(ResultQueue, Protocol):
    """A producer that can also send bytes which are no result."""

    def send(self, payload: bytes) -> None: ...


@dataclass(frozen=True, kw_only=True)
class QueueKit:
    """The queue under test. url: an address that nobody else uses.

    promised_history: whether late consumers get what was published before, within `QueueConfig.history`.
    """

    url: str
    promised_history: bool = True

    def produce(self, *, history: int = 100) -> ResultQueue:
        return open_queue(self.url, QueueConfig(url=self.url, history=history, linger_s=PATIENCE_S))

    def consume(self, start: Start = "earliest", *, follow: bool = False) -> Subscription:
        return subscribe(
            self.url, start=start, follow=follow, timeout_s=PATIENCE_S, config=QueueConfig(url=self.url, history=100)
        )


def check_order(kit: QueueKit) -> None:
    """A consumer attached from the start gets every result once, in order, unchanged; then the end, and no more."""
    queue, subscription = kit.produce(), kit.consume()
    _await_consumer(queue)
    sent = _publish_run(queue, "run-0", 20, detections=40)
    got = list(subscription)
    _expect(_names(got) == _run("run-0", 0, 20), f"got {_names(got)}")
    _expect(all(map(_is_same, got, sent)), "the results are not what was published")
    _expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted, nothing was lost")
    queue.close()


def check_consumer_first(kit: QueueKit) -> None:
    """A consumer may start before the producer."""
    subscription = kit.consume()
    queue = kit.produce()
    _publish_run(queue, "run-0", 5)
    _expect(_names(subscription) == _run("run-0", 0, 5), "not the whole run")
    queue.close()


def check_late_consumer(kit: QueueKit) -> None:
    """A consumer that comes later gets the history, and then what follows."""
    if not kit.promised_history:
        return
    queue = kit.produce()
    _publish(queue, "run-0", range(6))
    items = iter(kit.consume())
    first = _names(islice(items, 3))
    _publish(queue, "run-0", range(6, 9))
    queue.publish(_end("run-0", 9))
    _expect(first + _names(items) == _run("run-0", 0, 9), "not the whole run")
    queue.close()


def check_latest(kit: QueueKit) -> None:
    """`latest` gives only what is published once the consumer is attached, and no gaps for what was before."""
    queue = kit.produce()
    _publish(queue, "run-0", range(5))
    subscription = kit.consume("latest")
    _await_consumer(queue)
    _publish(queue, "run-0", range(5, 8))
    queue.publish(_end("run-0", 8))
    _expect(_names(subscription) == _run("run-0", 5, 8), "not what was published after the consumer came")
    _expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_start_at(kit: QueueKit) -> None:
    """A number begins with that sequence."""
    queue = kit.produce()
    subscription = kit.consume(3)
    _await_consumer(queue)
    _publish_run(queue, "run-0", 6)
    _expect(_names(subscription) == _run("run-0", 3, 6), "not sequences 3 to 5 and the end")
    _expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_two_consumers(kit: QueueKit) -> None:
    """Each consumer gets everything; one that stalls does not hold the other up."""
    queue = kit.produce()
    stalled, quick = kit.consume(), kit.consume()
    stalled_items = iter(stalled)
    quick_items = iter(quick)
    _publish(queue, "run-0", range(1))
    _expect(_names(islice(stalled_items, 1)) == ["run-0/0"], "the first consumer got no result")
    _publish(queue, "run-0", range(1, 30))
    queue.publish(_end("run-0", 30))
    _expect(_names(quick_items) == _run("run-0", 0, 30), "the quick consumer missed results")
    _expect(_names(stalled_items) == _run("run-0", 1, 30), "the stalled consumer missed results within the history")
    queue.close()


def check_one_run(kit: QueueKit) -> None:
    """Without `follow` a consumer ends with the first run it meets and never sees another."""
    queue = kit.produce()
    subscription = kit.consume()
    _await_consumer(queue)
    _publish_run(queue, "run-0", 3)
    _publish_run(queue, "run-1", 3)
    _expect(_names(subscription) == _run("run-0", 0, 3), "not run-0 alone")
    queue.close()


def check_follow(kit: QueueKit) -> None:
    """With `follow` runs come one after the other, each from 0."""
    queue = kit.produce()
    subscription = kit.consume(follow=True)
    _await_consumer(queue)
    for lap in range(3):
        _publish_run(queue, f"run-{lap}", 4)
    expected = [name for lap in range(3) for name in _run(f"run-{lap}", 0, 4)]
    _expect(_names(islice(subscription, len(expected))) == expected, "not three whole runs")
    _expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    subscription.close()
    queue.close()


def check_two_producers(kit: QueueKit) -> None:
    """Runs of two producers on one address do not mix: the consumer gets one of them, whole."""
    first, second = kit.produce(), kit.produce()
    subscription = kit.consume()
    _await_consumer(first)
    _await_consumer(second)
    for sequence in range(5):
        _publish(first, "run-a", range(sequence, sequence + 1))
        _publish(second, "run-b", range(sequence, sequence + 1))
    first.publish(_end("run-a", 5))
    second.publish(_end("run-b", 5))
    got = _names(subscription)
    _expect(got in (_run("run-a", 0, 5), _run("run-b", 0, 5)), f"got {got}")
    first.close()
    second.close()


def check_overrun(kit: QueueKit) -> None:
    """What no longer is in the history is counted as lost, by the consumer that wanted it."""
    if not kit.promised_history:
        return
    queue = kit.produce(history=8)
    _publish_run(queue, "run-0", 200)
    subscription = kit.consume()
    got = _names(subscription)
    _expect(got == _run("run-0", 193, 200), f"not the last 7 results and the end, but {len(got)} items from {got[:1]}")
    _expect(subscription.gaps == 193, f"{subscription.gaps} gaps counted, 193 results were lost")
    queue.close()


def check_missing(kit: QueueKit) -> None:
    """Sequences that were never sent are gaps, in the middle and at the end; doubles are dropped."""
    queue = kit.produce()
    subscription = kit.consume()
    _await_consumer(queue)
    _publish(queue, "run-0", (0, 1, 1, 4, 0, 5))
    queue.publish(_end("run-0", 8))
    _expect(
        _names(subscription) == ["run-0/0", "run-0/1", "run-0/4", "run-0/5", "run-0/end"], "not in order, once each"
    )
    _expect(subscription.gaps == 4, f"{subscription.gaps} gaps counted, 4 results were lost")
    queue.close()


def check_malformed(kit: QueueKit) -> None:
    """What is no result is skipped; the consumer goes on."""
    queue = kit.produce()
    subscription = kit.consume()
    _await_consumer(queue)
    _publish(queue, "run-0", range(2))
    if hasattr(queue, "send"):
        for payload in (b"", b"\x00", b"not a result" * 50, encode(_end("run-0", 2))[:-3]):
            queue.send(payload)
    _publish(queue, "run-0", range(2, 4))
    queue.publish(_end("run-0", 4))
    _expect(_names(subscription) == _run("run-0", 0, 4), "the results around the malformed ones are missing")
    _expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_close(kit: QueueKit) -> None:
    """Closing twice is fine at both ends; a closed producer refuses to publish; a closed subscription ends."""
    queue = kit.produce()
    subscription = kit.consume()
    _await_consumer(queue)
    subscription.close()
    subscription.close()
    _expect(list(subscription) == [], "a closed subscription gave items")
    _await(lambda: not queue.has_consumer(), "the producer still sees a consumer that has left")
    queue.close()
    queue.close()
    _expect(not queue.has_consumer(), "a closed producer sees a consumer")
    try:
        queue.publish(_end("run-0", 0))
    except QueueError:
        return
    raise AssertionError("a closed producer took an item")


CHECKS: tuple[Callable[[QueueKit], None], ...] = (
    check_order,
    check_consumer_first,
    check_late_consumer,
    check_latest,
    check_start_at,
    check_two_consumers,
    check_one_run,
    check_follow,
    check_two_producers,
    check_overrun,
    check_missing,
    check_malformed,
    check_close,
)


def _publish_run(queue: ResultQueue, run_id: str, count: int, detections: int = 1) -> list[QueueItem]:
    items: list[QueueItem] = [*_publish(queue, run_id, range(count), detections), _end(run_id, count)]
    queue.publish(items[-1])
    return items


def _publish(queue: ResultQueue, run_id: str, sequences: Sequence[int], detections: int = 1) -> list[PerceptionResult]:
    rng = np.random.default_rng(0)
    results = [sample_result(rng, sequence=n, run_id=run_id, detections=detections, modes=1) for n in sequences]
    for result in results:
        queue.publish(result)
    return results


def _end(run_id: str, count: int) -> EndOfRun:
    return EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed")


def _run(run_id: str, first: int, count: int) -> list[str]:
    return [*(f"{run_id}/{sequence}" for sequence in range(first, count)), f"{run_id}/end"]


def _names(items: "Subscription | Iterator[QueueItem] | Sequence[QueueItem]") -> list[str]:
    return [f"{item.run_id}/{'end' if isinstance(item, EndOfRun) else item.sequence}" for item in items]


def _is_same(got: QueueItem, sent: QueueItem) -> bool:
    if isinstance(got, EndOfRun) or isinstance(sent, EndOfRun):
        return got == sent
    if got.world_SE3_ego is None or sent.world_SE3_ego is None:
        return got.world_SE3_ego is sent.world_SE3_ego and to_json(got) == to_json(sent)
    # A pose travels as a quaternion: its last bits may differ.
    return np.allclose(got.world_SE3_ego, sent.world_SE3_ego, rtol=0, atol=1e-9) and to_json(
        replace(got, world_SE3_ego=None)
    ) == to_json(replace(sent, world_SE3_ego=None))


def _await_consumer(queue: ResultQueue) -> None:
    _await(queue.has_consumer, "the producer sees no consumer")


def _await(is_true: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        _expect(time.monotonic() < deadline, f"{complaint} after {PATIENCE_S:g} s")
        time.sleep(0.005)


def _expect(is_true: bool, complaint: str) -> None:
    if not is_true:
        raise AssertionError(complaint)
