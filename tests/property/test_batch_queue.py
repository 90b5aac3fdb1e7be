"""What of the sessions' work makes a batch."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from perception.config.schema import BatchingConfig
from perception.pipeline.batch_queue import FUSION, STAGES, BatchQueue

MS = 1_000_000


@dataclass
class Item:
    stage: str
    session: int
    queued_ns: int
    number: int = 0
    is_ready: bool = True


def queue_of(sessions: int, **settings: float) -> BatchQueue[Item]:
    queue: BatchQueue[Item] = BatchQueue(BatchingConfig.model_validate(settings))
    for session in range(sessions):
        queue.open(session)
    return queue


@given(
    work=st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 3), st.integers(0, 5)), max_size=60),
    max_images=st.integers(1, 8),
    max_bundles=st.integers(1, 4),
    wait_ms=st.integers(0, 20),
)
def test_nothing_is_lost_reordered_or_kept_waiting(
    work: list[tuple[str, int, int]], max_images: int, max_bundles: int, wait_ms: int
) -> None:
    queue = queue_of(4, max_images=max_images, max_bundles=max_bundles, max_wait_ms=wait_ms)
    now_ns, taken = 0, list[Item]()
    waiting = 0
    for number, (stage, session, pause_ms) in enumerate(work):
        queue.put(Item(stage, session, now_ns, number))
        waiting += 1
        now_ns += pause_ms * MS
        while batch := queue.take(now_ns):
            assert len({item.stage for item in batch}) == 1
            assert len(batch) <= (max_images if batch[0].stage == "camera" else max_bundles)
            taken += batch
            waiting -= len(batch)
        due_in_s = queue.due_in_s(now_ns)
        assert (due_in_s is None) == (waiting == 0)
        assert due_in_s is None or 0 < due_in_s <= wait_ms / 1e3
    while batch := queue.take(now_ns + wait_ms * MS):
        taken += batch
    assert sorted(item.number for item in taken) == list(range(len(work)))
    for stage in STAGES:
        for session in range(4):
            numbers = [item.number for item in taken if (item.stage, item.session) == (stage, session)]
            assert numbers == sorted(numbers)


@given(counts=st.lists(st.integers(0, 30), min_size=2, max_size=6), limit=st.integers(1, 12))
def test_a_busy_session_takes_no_more_than_its_share(counts: list[int], limit: int) -> None:
    queue = queue_of(len(counts), max_images=limit, max_wait_ms=0)
    for session, count in enumerate(counts):
        for number in range(count):
            queue.put(Item("camera", session, 0, number))
    left = list(counts)
    served = [0] * len(counts)
    while batch := queue.take(0):
        for item in batch:
            left[item.session] -= 1
            served[item.session] += 1
        hungry = [served[session] for session in range(len(counts)) if left[session]]
        # Whoever still waits was served as often as any other, give or take one turn.
        assert not hungry or max(served) <= min(hungry) + 1
    assert not any(left)


def test_waits_for_the_others_but_not_for_long() -> None:
    queue = queue_of(2, max_wait_ms=5)
    queue.put(Item("lidar", 0, 0))
    assert queue.take(4 * MS) == []
    assert queue.due_in_s(4 * MS) == 0.001
    assert len(queue.take(5 * MS)) == 1
    queue.put(Item("lidar", 0, 0))
    queue.put(Item("lidar", 1, 0))
    assert len(queue.take(0)) == 2


def test_a_fusion_waits_for_its_features_and_for_those_before_it() -> None:
    queue = queue_of(1, max_wait_ms=0)
    first, second = Item(FUSION, 0, 0, 1, is_ready=False), Item(FUSION, 0, 0, 2)
    queue.put(first)
    queue.put(second)
    assert queue.take(MS) == []
    assert queue.due_in_s(MS) is None
    first.is_ready = True
    assert queue.take(MS) == [first, second]


def test_a_closed_session_gives_its_work_back_and_is_not_waited_for() -> None:
    queue = queue_of(2, max_wait_ms=1000)
    queue.put(Item("radar", 0, 0))
    queue.put(Item("radar", 1, 0))
    assert [item.session for item in queue.close(1)] == [1]
    assert queue.sessions == {0}
    assert [item.session for item in queue.take(0)] == [0]
