"""Checks of what outlives somebody: history without its producer, positions without their consumer, and ages."""

import time
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

from perception.core.errors import UsageError
from perception.queues.contract_kit import (
    QueueKit,
    await_consumer,
    end_of,
    expect,
    names,
    publish,
    publish_run,
    run_names,
)
from perception.queues.samples import sample_result


def check_producer_gone(kit: QueueKit) -> None:
    """A consumer that comes when the producer has gone gets the whole history, then what the next producer sends."""
    if not kit.promised_persistence:
        return
    for run_id in ("run-0", "run-1"):
        with closing(kit.produce()) as queue:
            publish_run(queue, run_id, 5)
    expect(names(kit.consume()) == run_names("run-0", 0, 5), "not the first run, whole")
    with closing(kit.consume(follow=True)) as subscription:
        items = iter(subscription)
        both = run_names("run-0", 0, 5) + run_names("run-1", 0, 5)
        expect(names(islice(items, 12)) == both, "not both runs, one after the other")
        with closing(kit.produce()) as queue:
            publish_run(queue, "run-2", 3)
        expect(names(islice(items, 4)) == run_names("run-2", 0, 3), "not the run of the producer that came later")
        expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")


def check_max_age(kit: QueueKit) -> None:
    """Results older than the consumer wants them are skipped and counted, and are no gaps."""
    queue, subscription = kit.produce(), kit.consume(max_age_s=3600)
    await_consumer(queue)
    rng = np.random.default_rng(0)
    for sequence in range(10):
        result = sample_result(rng, sequence=sequence, detections=1, modes=1)
        queue.publish(replace(result, published_ns=time.time_ns()) if sequence in (4, 8) else result)
    queue.publish(end_of("run-0", 10))
    expect(names(subscription) == ["run-0/4", "run-0/8", "run-0/end"], "not the fresh results alone")
    expect(subscription.stale == 8, f"{subscription.stale} stale results counted, 8 were")
    expect(subscription.gaps == 0, f"{subscription.gaps} gaps counted")
    queue.close()


def check_no_groups(kit: QueueKit) -> None:
    """A queue that remembers no consumers says so to one that wants to be remembered."""
    if kit.promised_groups:
        return
    try:
        kit.consume(group="logger").close()
    except UsageError:
        return
    raise AssertionError("it took a group's name, of which it remembers nothing")


def check_group_goes_on(kit: QueueKit) -> None:
    """Whoever comes back under a name gets what was not acknowledged, beginning with what was handed out last."""
    if not kit.promised_groups:
        return
    queue = kit.produce()
    publish_run(queue, "run-0", 10)
    expect(_take(kit, 4) == [f"run-0/{n}" for n in range(4)], "the first holder got other results")
    expect(_take(kit, 3, acknowledge_last=True) == [f"run-0/{n}" for n in (3, 4, 5)], "not from the unacknowledged one")
    expect(names(kit.consume(group="logger")) == run_names("run-0", 6, 10), "not from the first unacknowledged one")
    publish_run(queue, "run-1", 2)
    expect(names(kit.consume(group="logger")) == run_names("run-1", 0, 2), "not the next run")
    queue.close()


def check_group_shares(kit: QueueKit) -> None:
    """Each result goes to one of the members of a group that are there."""
    if not kit.promised_groups:
        return
    queue = kit.produce()
    publish(queue, "run-0", range(20))
    with closing(kit.consume(group="team", follow=True)) as one, closing(kit.consume(group="team", follow=True)) as two:
        got = [name for pair in zip(islice(one, 10), islice(two, 10), strict=True) for name in names(pair)]
        expect(sorted(got) == sorted(f"run-0/{n}" for n in range(20)), f"not each result once: {got}")
        expect(one.gaps == two.gaps == 0, "gaps were counted where others have what is missing")
    queue.close()


def check_groups_are_apart(kit: QueueKit) -> None:
    """Groups take nothing from each other, nor from those who read without one."""
    if not kit.promised_groups:
        return
    queue = kit.produce()
    publish_run(queue, "run-0", 5)
    for group in ("logger", "dashboard", None):
        expect(names(kit.consume(group=group)) == run_names("run-0", 0, 5), f"{group} did not get the whole run")
    queue.close()


def check_latest_group(kit: QueueKit) -> None:
    """A new name may begin at the latest; from then on it goes on where it was."""
    if not kit.promised_groups:
        return
    queue = kit.produce()
    publish_run(queue, "run-0", 3)
    expect(names(kit.consume()) == run_names("run-0", 0, 3), "not the whole run")
    subscription = kit.consume("latest", group="logger")
    await_consumer(queue)
    subscription.close()
    publish_run(queue, "run-1", 3)
    expect(names(kit.consume("latest", group="logger")) == run_names("run-1", 0, 3), "not what came since")
    queue.close()


def _take(kit: QueueKit, count: int, *, acknowledge_last: bool = False) -> list[str]:
    """What the holder of a name gets who leaves after `count` items."""
    got = []
    with closing(kit.consume(group="logger")) as subscription:
        for item in subscription:
            got += names([item])
            if len(got) == count:
                if acknowledge_last:
                    subscription.acknowledge()
                break
    return got
