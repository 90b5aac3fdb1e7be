"""Which items a consumer is given: runs, starts, doubles and gaps, without any transport."""

import numpy as np
import pytest

from perception.core.ports import QueueItem, Start
from perception.core.results import EndOfRun
from perception.queues.runs import REMEMBERED_ITEMS, REMEMBERED_RUNS, GroupTracker, RunTracker
from perception.queues.samples import sample_result


def result(sequence: int, run_id: str = "a") -> QueueItem:
    return sample_result(np.random.default_rng(0), sequence=sequence, run_id=run_id, detections=0, modes=0)


def end(count: int, run_id: str = "a") -> QueueItem:
    return EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed")


def test_the_first_run_met_is_the_only_one() -> None:
    tracker = RunTracker("earliest")
    assert tracker.accept(result(0, "a"))
    assert not tracker.accept(result(0, "b"))
    assert not tracker.accept(end(1, "b"))
    assert tracker.accept(end(1, "a"))
    assert tracker.finished
    assert not tracker.accept(result(0, "c"))
    assert tracker.gaps == 0


def test_following_takes_every_run_from_its_beginning() -> None:
    tracker = RunTracker("earliest", follow=True)
    for run_id in ("a", "b"):
        assert tracker.accept(result(0, run_id))
        assert tracker.accept(end(1, run_id))
    assert tracker.accept(result(2, "c"))
    assert tracker.gaps == 2
    assert not tracker.finished
    assert not tracker.accept(result(1, "a")), "a run that has ended does not go on"


@pytest.mark.parametrize(
    ("start", "first_accepted", "gaps"), [("earliest", 4, 4), ("latest", 4, 0), (4, 4, 0), (5, 5, 0), (2, 4, 2)]
)
def test_gaps_count_from_where_the_consumer_wanted_to_begin(start: Start, first_accepted: int, gaps: int) -> None:
    tracker = RunTracker(start)
    accepted = [sequence for sequence in (4, 5) if tracker.accept(result(sequence))]
    assert accepted[0] == first_accepted
    assert tracker.gaps == gaps


def test_the_end_tells_what_was_lost_before_it() -> None:
    tracker = RunTracker("earliest")
    assert tracker.accept(result(0))
    assert tracker.accept(end(10))
    assert tracker.gaps == 9
    only_the_end = RunTracker("latest")
    assert only_the_end.accept(end(10))
    assert only_the_end.gaps == 0
    beyond_the_end = RunTracker(20)
    assert beyond_the_end.accept(end(10))
    assert beyond_the_end.gaps == 0


def test_memory_stays_flat_over_many_runs() -> None:
    tracker = RunTracker("earliest", follow=True)
    for lap in range(3 * REMEMBERED_RUNS):
        assert tracker.accept(result(0, f"lap-{lap}"))
        assert tracker.accept(end(1, f"lap-{lap}"))
    assert len(tracker._ended) == REMEMBERED_RUNS


def test_a_member_of_a_group_takes_what_it_is_given_but_nothing_twice() -> None:
    tracker = GroupTracker()
    assert tracker.accept(result(7, "a")), "it begins in the middle"
    assert tracker.accept(result(9, "a"))
    assert tracker.accept(result(2, "b")), "what it refused would be lost to the group"
    assert tracker.accept(result(8, "a")), "left by another member"
    assert not tracker.accept(result(9, "a"))
    assert tracker.accept(end(10, "a"))
    assert tracker.finished
    assert not tracker.accept(result(3, "b"))
    assert tracker.gaps == 0


def test_a_member_that_follows_goes_on_after_the_end() -> None:
    tracker = GroupTracker(follow=True)
    assert tracker.accept(end(10, "a"))
    assert not tracker.accept(end(10, "a"))
    assert tracker.accept(result(4, "a")), "left by another member"
    for sequence in range(REMEMBERED_ITEMS + 10):
        assert tracker.accept(result(sequence, "b"))
    assert len(tracker._seen) == REMEMBERED_ITEMS
