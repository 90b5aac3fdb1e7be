"""What every queue must do, as plain functions: run them over your own kind of queue from any test framework.

Each function of `CHECKS` takes a `QueueKit` on an address of its own and raises AssertionError where the queue falls
short. With pytest: `@pytest.mark.parametrize("check", CHECKS)`, and `check(kit)` in the body. The kit says what the
queue promises; what it does not promise is not checked.
"""

from collections.abc import Callable
from contextlib import closing
from itertools import islice

from perception.core.errors import QueueError
from perception.queues.codec import encode
from perception.queues.contract_durable import (
    check_group_goes_on,
    check_group_shares,
    check_groups_are_apart,
    check_latest_group,
    check_max_age,
    check_no_groups,
    check_producer_gone,
)
from perception.queues.contract_kit import (
    QueueKit,
    await_consumer,
    await_true,
    end_of,
    expect,
    is_same,
    names,
    publish,
    publish_run,
    run_names,
)

__all__ = ["CHECKS", "QueueKit"]


def check_order(kit: QueueKit) -> None:
    """A consumer attached from the start gets every result once, in order, unchanged; then the end, and no more."""
    queue, subscription = kit.produce(), kit.consume()
    await_consumer(queue)
    sent = publish_run(queue, "run-0", 20, detections=40)
    got = list(subscription)
    expect(names(got) == run_names("run-0", 0, 20), f"got {names(got)}")
    expect(all(map(is_same, got, sent)), "the results are not what was published")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted, nothing was lost")
    queue.close()


def check_consumer_first(kit: QueueKit) -> None:
    """A consumer may start before the producer."""
    subscription = kit.consume()
    queue = kit.produce()
    publish_run(queue, "run-0", 5)
    expect(names(subscription) == run_names("run-0", 0, 5), "not the whole run")
    queue.close()


def check_late_consumer(kit: QueueKit) -> None:
    """A consumer that comes later gets the history, and then what follows."""
    if not kit.promised_history:
        return
    queue = kit.produce()
    publish(queue, "run-0", range(6))
    items = iter(kit.consume())
    first = names(islice(items, 3))
    publish(queue, "run-0", range(6, 9))
    queue.publish(end_of("run-0", 9))
    expect(first + names(items) == run_names("run-0", 0, 9), "not the whole run")
    queue.close()


def check_latest(kit: QueueKit) -> None:
    """`latest` gives only what is published once the consumer is attached, and no gaps for what was before."""
    queue = kit.produce()
    publish(queue, "run-0", range(5))
    with closing(kit.consume()) as witness:
        expect(len(names(islice(witness, 5))) == 5 or not kit.promised_history, "not what was published before")
    await_true(lambda: not queue.has_consumer(), "the producer still sees a consumer that has left")
    subscription = kit.consume("latest")
    await_consumer(queue)
    publish(queue, "run-0", range(5, 8))
    queue.publish(end_of("run-0", 8))
    expect(names(subscription) == run_names("run-0", 5, 8), "not what was published after the consumer came")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_start_at(kit: QueueKit) -> None:
    """A number begins with that sequence."""
    queue = kit.produce()
    subscription = kit.consume(3)
    await_consumer(queue)
    publish_run(queue, "run-0", 6)
    expect(names(subscription) == run_names("run-0", 3, 6), "not sequences 3 to 5 and the end")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_two_consumers(kit: QueueKit) -> None:
    """Each consumer gets everything; one that stalls does not hold the other up."""
    queue = kit.produce()
    stalled, quick = kit.consume(), kit.consume()
    stalled_items = iter(stalled)
    quick_items = iter(quick)
    publish(queue, "run-0", range(1))
    expect(names(islice(stalled_items, 1)) == ["run-0/0"], "the first consumer got no result")
    publish(queue, "run-0", range(1, 30))
    queue.publish(end_of("run-0", 30))
    expect(names(quick_items) == run_names("run-0", 0, 30), "the quick consumer missed results")
    expect(names(stalled_items) == run_names("run-0", 1, 30), "the stalled consumer missed results within the history")
    queue.close()


def check_one_run(kit: QueueKit) -> None:
    """Without `follow` a consumer ends with the first run it meets and never sees another."""
    queue = kit.produce()
    subscription = kit.consume()
    await_consumer(queue)
    publish_run(queue, "run-0", 3)
    publish_run(queue, "run-1", 3)
    expect(names(subscription) == run_names("run-0", 0, 3), "not run-0 alone")
    queue.close()


def check_follow(kit: QueueKit) -> None:
    """With `follow` runs come one after the other, each from 0."""
    queue = kit.produce()
    subscription = kit.consume(follow=True)
    await_consumer(queue)
    for lap in range(3):
        publish_run(queue, f"run-{lap}", 4)
    expected = [name for lap in range(3) for name in run_names(f"run-{lap}", 0, 4)]
    expect(names(islice(subscription, len(expected))) == expected, "not three whole runs")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    subscription.close()
    queue.close()


def check_two_producers(kit: QueueKit) -> None:
    """Runs of two producers on one address do not mix: the consumer gets one of them, whole."""
    if not kit.promised_producers:
        return
    first, second = kit.produce(), kit.produce()
    subscription = kit.consume()
    await_consumer(first)
    await_consumer(second)
    for sequence in range(5):
        publish(first, "run-a", range(sequence, sequence + 1))
        publish(second, "run-b", range(sequence, sequence + 1))
    first.publish(end_of("run-a", 5))
    second.publish(end_of("run-b", 5))
    got = names(subscription)
    expect(got in (run_names("run-a", 0, 5), run_names("run-b", 0, 5)), f"got {got}")
    first.close()
    second.close()


def check_overrun(kit: QueueKit) -> None:
    """What no longer is in the history is counted as lost, by the consumer that wanted it."""
    if not (kit.promised_history and kit.promised_overrun):
        return
    queue, witness = kit.produce(history=8), kit.consume()
    publish_run(queue, "run-0", 200)
    # When somebody has the end, everything is where it will stay.
    expect(names(witness)[-1] == "run-0/end", "the run did not end")
    subscription = kit.consume()
    got = names(subscription)
    expect(
        got == run_names("run-0", 193, 200), f"not the last 7 results and the end, but {len(got)} items from {got[:1]}"
    )
    expect(subscription.gaps == 193, f"{subscription.gaps} gaps counted, 193 results were lost")
    queue.close()


def check_missing(kit: QueueKit) -> None:
    """Sequences that were never sent are gaps, in the middle and at the end; doubles are dropped."""
    queue = kit.produce()
    subscription = kit.consume()
    await_consumer(queue)
    publish(queue, "run-0", (0, 1, 1, 4, 0, 5))
    queue.publish(end_of("run-0", 8))
    expect(names(subscription) == ["run-0/0", "run-0/1", "run-0/4", "run-0/5", "run-0/end"], "not in order, once each")
    expect(subscription.gaps == 4, f"{subscription.gaps} gaps counted, 4 results were lost")
    queue.close()


def check_malformed(kit: QueueKit) -> None:
    """What is no result is skipped; the consumer goes on."""
    queue = kit.produce()
    subscription = kit.consume()
    await_consumer(queue)
    publish(queue, "run-0", range(2))
    if hasattr(queue, "send"):
        for payload in (b"", b"\x00", b"not a result" * 50, encode(end_of("run-0", 2))[:-3]):
            queue.send(payload)
    publish(queue, "run-0", range(2, 4))
    queue.publish(end_of("run-0", 4))
    expect(names(subscription) == run_names("run-0", 0, 4), "the results around the malformed ones are missing")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_close(kit: QueueKit) -> None:
    """Closing twice is fine at both ends; a closed producer refuses to publish; a closed subscription ends."""
    queue = kit.produce()
    subscription = kit.consume()
    await_consumer(queue)
    subscription.close()
    subscription.close()
    expect(list(subscription) == [], "a closed subscription gave items")
    await_true(lambda: not queue.has_consumer(), "the producer still sees a consumer that has left")
    queue.close()
    queue.close()
    expect(not queue.has_consumer(), "a closed producer sees a consumer")
    try:
        queue.publish(end_of("run-0", 0))
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
    check_max_age,
    check_close,
    check_producer_gone,
    check_no_groups,
    check_group_goes_on,
    check_group_shares,
    check_groups_are_apart,
    check_latest_group,
)
