"""A run that another process goes on with: wherever the first one died, the results are as if it had not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perception.config.schema import ServiceConfig, SyncConfig
from perception.core.clock import ManualClock
from perception.core.errors import UsageError
from perception.core.messages import AnyMessage
from perception.core.ports import QueueItem, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.core.rig import SensorRig
from perception.models.tracker import TrackerState
from perception.pipeline.laps import replay_laps
from perception.pipeline.replay import ReplayOptions, RunSummary
from perception.pipeline.resuming import Resuming
from perception.pipeline.run_state import STATE_FILE, RunFolder, SavedTracks
from perception.pipeline.session_state import SessionState
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_rig import synthetic_rig
from tests.truth_engine import TruthEngine
from tests.undisturbed import decided

RATE_HZ, FRAMES = 10.0, 12
NOW_NS = 1_000_000_000_000


class LaggingQueue:
    """Stores what it gets `lag` items later, as a broker does."""

    def __init__(self, lag: int = 0) -> None:
        self.items: list[QueueItem] = []
        self._lag = lag

    def publish(self, item: QueueItem) -> None:
        self.items.append(item)

    def waiting(self) -> int:
        # The end of a run is waited for: then everything is stored.
        return 0 if isinstance(self.items[-1], EndOfRun) else min(self._lag, len(self.items))

    @property
    def results(self) -> list[PerceptionResult]:
        return [item for item in self.items if isinstance(item, PerceptionResult)]

    def has_consumer(self) -> bool:
        return True

    def take_losses(self) -> int:
        return 0

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    full = synthetic_rig()
    names = ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT")
    rig = SensorRig(sensors=tuple(replace(full[name], frequency_hz=RATE_HZ) for name in names))
    made = SyntheticSource(duration_s=FRAMES / RATE_HZ, rig=rig)
    labels = {time_ns: truth for time_ns in made.label_times_ns if (truth := made.labels(time_ns)) is not None}
    return MemorySource(made.rig, list(made.messages()), labels)


def play(
    source: Source,
    queue: LaggingQueue,
    folder: Path,
    *,
    snapshots: list[bytes] | None = None,
    options: ReplayOptions | None = None,
    config: ServiceConfig | None = None,
    now_ns: int = NOW_NS,
    loop: bool = False,
    replaces: bool = False,
) -> Iterator[RunSummary]:
    """`snapshots` gets the state as it lies on the disk after each result: what a death then would leave."""

    def keep(_: PerceptionResult) -> None:
        if snapshots is not None:
            snapshots.append((folder / STATE_FILE).read_bytes())

    state = RunFolder(folder)
    try:
        yield from replay_laps(
            source,
            TruthEngine(source),
            queue,
            config or ServiceConfig(),
            options=options or ReplayOptions(),
            on_result=keep,
            loop=loop,
            resuming=Resuming(folder=state, within_s=10.0, clock=ManualClock(now_ns), replaces=replaces),
        )
    finally:
        state.close()


@pytest.mark.parametrize("lag", [0, 3])
def test_wherever_a_replay_died_it_goes_on_as_if_it_had_not(drive: MemorySource, tmp_path: Path, lag: int) -> None:
    queue, snapshots = LaggingQueue(lag), list[bytes]()
    (whole,) = play(drive, queue, tmp_path / "whole", snapshots=snapshots)
    undisturbed = [decided(result) for result in queue.results]
    assert len(undisturbed) == len(snapshots) == FRAMES
    assert any('track_id":1' in result for result in undisturbed)
    for died_after in range(FRAMES):
        folder = tmp_path / str(died_after)
        folder.mkdir()
        (folder / STATE_FILE).write_bytes(snapshots[died_after])
        rest = LaggingQueue(lag)
        (summary,) = play(drive, rest, folder)
        stored = max(0, died_after + 1 - lag)
        assert [result.sequence for result in rest.results] == list(range(stored, FRAMES))
        assert [decided(result) for result in rest.results] == undisturbed[stored:]
        assert {item.run_id for item in rest.items} == {whole.end.run_id}
        assert summary.end == whole.end
        assert summary.dropped == whole.dropped
        reporting = [result.sequence for result in rest.results if result.provenance.restarts]
        # Not by one that the queue may have had already: it would be dropped as a double.
        news = died_after + 2 if stored else 1
        assert reporting == [news] * (news < FRAMES)


def test_a_complete_run_is_not_run_again_unless_in_a_loop(drive: MemorySource, tmp_path: Path) -> None:
    queue = LaggingQueue()
    (first,) = play(drive, queue, tmp_path)
    again = LaggingQueue()
    (second,) = play(drive, again, tmp_path)
    assert again.items == []
    assert (second.end, second.messages) == (first.end, 0)
    third = next(play(drive, again, tmp_path, loop=True))
    assert third.end.run_id != first.end.run_id
    assert len(again.results) == FRAMES


def test_a_run_that_failed_or_was_interrupted_is_closed_and_another_begins(drive: MemorySource, tmp_path: Path) -> None:
    class Breaks(LaggingQueue):
        def publish(self, item: QueueItem) -> None:
            if isinstance(item, PerceptionResult) and item.sequence == 4:
                raise OSError("broken")
            super().publish(item)

    queue = Breaks()
    with pytest.raises(OSError, match="broken"):
        next(play(drive, queue, tmp_path))
    end = queue.items[-1]
    assert isinstance(end, EndOfRun)
    assert (end.count, end.reason) == (4, "failed: OSError: broken")
    (summary,) = play(drive, after := LaggingQueue(), tmp_path)
    assert summary.end.run_id != end.run_id
    assert len(after.results) == FRAMES


@pytest.mark.parametrize("change", ["drive", "settings", "part"])
def test_the_state_of_something_else_is_refused(drive: MemorySource, tmp_path: Path, change: str) -> None:
    next(play(drive, LaggingQueue(), tmp_path))
    source: Source = SyntheticSource(seed=3) if change == "drive" else drive
    config = ServiceConfig(sync=SyncConfig(deadline_ms=77)) if change == "settings" else None
    options = ReplayOptions(start_s=0.5) if change == "part" else None
    with pytest.raises(
        UsageError, match=f"holds the run of something else .*{'drive_id' if change == 'drive' else change}"
    ):
        next(play(source, LaggingQueue(), tmp_path, config=config, options=options))


def test_two_processes_cannot_have_one_run(tmp_path: Path) -> None:
    held = RunFolder(tmp_path)
    with pytest.raises(UsageError, match="another process"):
        RunFolder(tmp_path)
    held.close()
    RunFolder(tmp_path).close()


@pytest.mark.parametrize("torn", [b"", b'{"identity":{"dri', b"[]"])
def test_a_torn_state_is_as_none(drive: MemorySource, tmp_path: Path, torn: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(torn)
    next(play(drive, queue := LaggingQueue(), tmp_path))
    assert len(queue.results) == FRAMES


def test_a_live_run_goes_on_with_its_tracks_and_counts_what_it_missed(drive: MemorySource, tmp_path: Path) -> None:
    live = ReplayOptions(rate=1000.0, live=True)
    queue, snapshots = LaggingQueue(), list[bytes]()
    (whole,) = play(drive, queue, tmp_path / "whole", snapshots=snapshots, options=live)
    published = len(queue.results)
    if published < 2:
        pytest.skip("the machine is too busy to publish anything live")
    died_after = min(3, published - 2)
    folder = tmp_path / "died"
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(snapshots[died_after])
    # Away for 4000 s of data at this rate: whatever else the drive has is from while it was away.
    (summary,) = play(drive, rest := LaggingQueue(), folder, options=live, now_ns=NOW_NS + 4_000_000_000)
    assert rest.results == []
    assert summary.end.run_id == whole.end.run_id
    seen = {result.reference_ns for result in queue.results[: died_after + 1]}
    assert summary.dropped["outage"] == FRAMES - len([t for t in references(drive) if t <= max(seen)])


def references(drive: MemorySource) -> list[int]:
    queue = LaggingQueue()
    for _ in replay_laps(drive, TruthEngine(drive), queue, ServiceConfig(), options=ReplayOptions()):
        return [result.reference_ns for result in queue.results]
    raise AssertionError


def test_a_live_run_that_was_away_for_long_is_closed_and_a_new_one_begins(drive: MemorySource, tmp_path: Path) -> None:
    live = ReplayOptions(rate=1000.0, live=True)
    queue, snapshots = LaggingQueue(), list[bytes]()
    (whole,) = play(drive, queue, tmp_path / "whole", snapshots=snapshots, options=live)
    folder = tmp_path / "died"
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(snapshots[0])
    (summary,) = play(drive, rest := LaggingQueue(), folder, options=live, now_ns=NOW_NS + 11_000_000_000)
    end = rest.items[0]
    assert isinstance(end, EndOfRun)
    assert (end.run_id, end.count, end.reason) == (whole.end.run_id, 1, "failed: the service died")
    assert summary.end.run_id != whole.end.run_id


def test_a_service_closes_the_run_of_something_else_and_begins_its_own(drive: MemorySource, tmp_path: Path) -> None:
    snapshots = list[bytes]()
    (whole,) = play(drive, LaggingQueue(), tmp_path, snapshots=snapshots)
    (tmp_path / STATE_FILE).write_bytes(snapshots[3])
    other = ServiceConfig(sync=SyncConfig(deadline_ms=77))
    (summary,) = play(drive, queue := LaggingQueue(), tmp_path, config=other, replaces=True)
    end = queue.items[0]
    assert isinstance(end, EndOfRun)
    assert (end.run_id, end.count, end.reason) == (whole.end.run_id, 4, "failed: the service died")
    assert summary.end.run_id != whole.end.run_id
    assert len(queue.results) == FRAMES


class Endless(MemorySource):
    """As a live source, it does not know its end."""

    @property
    def span_ns(self) -> None:
        return None


@pytest.mark.parametrize(("jump_s", "missed"), [(0, 4), (-100, 0), (100, 49)])
def test_a_live_source_that_was_missed_is_counted_by_the_rate_of_its_reference_sensor(
    drive: MemorySource, tmp_path: Path, jump_s: int, missed: int
) -> None:
    """Five frames after the last result the source is heard again, or its clock has jumped meanwhile."""
    messages, live = list(drive.messages()), ReplayOptions(live=True)
    times = references(drive)
    before = [message for message in messages if message.capture_ns < times[4] - 20_000_000]
    after = [message for message in messages if message.capture_ns > times[8] - 20_000_000]
    snapshots = list[bytes]()
    play_all(Endless(drive.rig, before), first := LaggingQueue(), tmp_path, snapshots=snapshots, options=live)
    (tmp_path / STATE_FILE).write_bytes(snapshots[-1])
    rest = LaggingQueue()
    jumped = [shifted(message, jump_s * 1_000_000_000) for message in after]
    play_all(Endless(drive.rig, jumped), rest, tmp_path, options=live, now_ns=NOW_NS + 5_000_000_000)
    assert {item.run_id for item in rest.items} == {first.items[0].run_id}
    assert rest.results[0].sequence == first.results[-1].sequence + 1
    assert rest.results[0].provenance.restarts == {"service": 1}
    unseen = round((times[8] - first.results[-1].reference_ns) * RATE_HZ / 1e9) - 1 if not jump_s else missed
    assert rest.results[0].provenance.dropped.get("outage", 0) == pytest.approx(unseen, abs=bool(jump_s))


def play_all(*arguments: Any, **named: Any) -> None:
    for _ in play(*arguments, **named):
        pass


def shifted(message: AnyMessage, by_ns: int) -> AnyMessage:
    return replace(message, capture_ns=message.capture_ns + by_ns, arrival_ns=message.arrival_ns + by_ns)


def test_tracks_come_back_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    pose = np.eye(4)
    pose[:3, 3] = rng.normal(0, 1e5, 3)
    tracker = TrackerState(
        reference_ns=1_700_000_000_123_456_789,
        next_id=41,
        track_id=np.arange(5),
        class_index=np.arange(5),
        seen_ns=np.arange(5) + 1_700_000_000_000_000_001,
        center_m=rng.normal(0, 30, (5, 3)),
        velocity_mps=rng.normal(0, 5, (5, 2)).astype(np.float32).astype(np.float64),
    )
    state = SessionState(tracker=tracker, reference_ns=tracker.reference_ns, world_SE3_ego=pose)
    back = msgspec.json.decode(msgspec.json.encode(SavedTracks.of(state)), type=SavedTracks).session()
    for name in TrackerState.__slots__:
        np.testing.assert_array_equal(getattr(back.tracker, name), getattr(tracker, name))
    assert back.world_SE3_ego is not None
    np.testing.assert_array_equal(back.world_SE3_ego, pose)
