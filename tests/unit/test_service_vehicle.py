"""A vehicle of the service: its runs, its end, its breaks, and that the others do not feel them."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from perception.config.schema import ServiceConfig
from perception.config.serving import ReconnectConfig, VehicleConfig
from perception.core.errors import DriveError, EngineError, QueueError
from perception.core.messages import AnyMessage
from perception.core.ports import QueueItem, ResultQueue, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.core.rig import SensorRig
from perception.runtime.service_engine import NotNowError
from perception.runtime.service_pools import OnePool
from perception.runtime.service_tiers import SharedTiers
from perception.runtime.service_vehicle import Vehicle
from perception.runtime.service_watch import VehicleState, Watcher
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from tests.unit.service_parts import PATIENCE_S, BreakingSource, FakeEngine, until

FAST = 50.0
PAUSES = ReconnectConfig(first_s=0.01, longest_s=0.04, steady_s=30.0)


class ListQueue:
    """Keeps what is published; refuses as often as it is told to."""

    def __init__(self, refusals: int = 0) -> None:
        self.items: list[QueueItem] = []
        self.refusals = refusals
        self.is_closed = False

    def publish(self, item: QueueItem) -> None:
        if self.refusals and isinstance(item, PerceptionResult):
            self.refusals -= 1
            raise QueueError("the broker refuses us")
        self.items.append(item)

    def has_consumer(self) -> bool:
        return True

    def take_losses(self) -> int:
        return 0

    def close(self) -> None:
        self.is_closed = True

    @property
    def ends(self) -> list[EndOfRun]:
        return [item for item in self.items if isinstance(item, EndOfRun)]

    @property
    def results(self) -> list[PerceptionResult]:
        return [item for item in self.items if isinstance(item, PerceptionResult)]


class Heard(Watcher):
    def __init__(self) -> None:
        self.states: list[VehicleState] = []
        self.failures: list[tuple[str, float]] = []

    def state(self, vehicle: str, state: VehicleState) -> None:
        self.states.append(state)

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        self.failures.append((str(error), pause_s))


class WaitingSource(MemorySource):
    """A live source: after its messages it waits until it is interrupted, or ends where `ends`."""

    def __init__(self, rig: SensorRig, messages: Sequence[AnyMessage], *, ends: bool = False) -> None:
        super().__init__(rig, messages)
        self._stopped = threading.Event()
        self._ends = ends

    def messages(self) -> Iterator[AnyMessage]:
        yield from super().messages()
        if not self._ends:
            assert self._stopped.wait(PATIENCE_S)

    def interrupt(self) -> None:
        self._stopped.set()


@pytest.fixture(scope="module")
def drive() -> SyntheticSource:
    return SyntheticSource(duration_s=1.0)


@pytest.fixture(scope="module")
def messages(drive: SyntheticSource) -> list[AnyMessage]:
    return list(drive.messages())


def make(
    open_source: Callable[[], Source],
    queue: ListQueue,
    *,
    heard: Watcher | None = None,
    engine: FakeEngine | None = None,
    loop: bool = False,
) -> tuple[Vehicle, SharedTiers]:
    engines = [engine or FakeEngine(), FakeEngine()]
    shared = SharedTiers(lambda choice: OnePool(engines.pop(0)), ServiceConfig())

    def open_queue(settings: ServiceConfig) -> ResultQueue:
        return queue

    vehicle = Vehicle(
        VehicleConfig(name="anna", source="memory", rate=FAST, loop=loop),
        ServiceConfig(),
        PAUSES,
        shared,
        heard or Heard(),
        open_source=lambda config, settings: open_source(),
        open_queue=open_queue,
    )
    return vehicle, shared


def test_a_drive_is_played_to_its_end_and_the_vehicle_can_begin_again(
    drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    queue, heard = ListQueue(), Heard()
    vehicle, _ = make(lambda: MemorySource(drive.rig, messages), queue, heard=heard)
    assert vehicle.start()
    until(lambda: vehicle.status.state is VehicleState.FINISHED)
    assert [end.reason for end in queue.ends] == ["completed"]
    assert queue.ends[0].count == len(queue.results) == vehicle.status.results > 0
    assert queue.is_closed
    assert heard.states[:3] == [VehicleState.STOPPED, VehicleState.STARTING, VehicleState.RUNNING]
    assert vehicle.start()
    until(lambda: len(queue.ends) == 2)
    assert len({end.run_id for end in queue.ends}) == 2


def test_a_drain_publishes_what_is_under_way_and_ends_the_run(
    drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    queue, engine = ListQueue(), FakeEngine(waits=True)
    vehicle, _ = make(lambda: MemorySource(drive.rig, messages), queue, engine=engine, loop=True)
    vehicle.start()
    until(lambda: vehicle.status.frames_under_way > 0)
    vehicle.stop()
    until(lambda: vehicle.status.state is VehicleState.DRAINING)
    assert not vehicle.drain(0.0), "frames are under way"
    with pytest.raises(NotNowError, match="still draining"):
        vehicle.start()
    under_way = len(engine.fused)

    def answer_until_the_end() -> None:
        while not queue.ends:
            engine.answer()

    answering = threading.Thread(target=answer_until_the_end)
    answering.start()
    assert vehicle.drain(PATIENCE_S)
    answering.join(PATIENCE_S)
    assert vehicle.status.state is VehicleState.STOPPED
    assert len(queue.results) >= under_way
    assert [(end.reason, end.count) for end in queue.ends] == [("interrupted", len(queue.results))]


def test_a_source_that_breaks_is_opened_again_as_a_new_run(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    queue, heard = ListQueue(), Heard()
    sources = [BreakingSource(drive.rig, messages, good=len(messages) // 2) for _ in range(4)]
    sources_left: list[Source] = [*sources, MemorySource(drive.rig, messages)]
    vehicle, _ = make(lambda: sources_left.pop(0), queue, heard=heard)
    vehicle.start()
    until(lambda: vehicle.status.state is VehicleState.FINISHED)
    reasons = [end.reason for end in queue.ends]
    assert reasons == ["failed: DriveError: the cable was pulled"] * 4 + ["completed"]
    assert len({end.run_id for end in queue.ends}) == 5
    assert [pause_s for _, pause_s in heard.failures] == [0.01, 0.02, 0.04, 0.04]
    assert VehicleState.WAITING in heard.states
    assert (vehicle.status.failures, vehicle.status.error) == (4, None)


def test_a_source_that_cannot_be_opened_is_tried_again_until_it_is_stopped(drive: SyntheticSource) -> None:
    def refuse() -> Source:
        raise DriveError("no such drive")

    vehicle, _ = make(refuse, ListQueue())
    vehicle.start()
    until(lambda: vehicle.status.failures >= 3)
    assert vehicle.status.error == "DriveError: no such drive"
    assert vehicle.drain(PATIENCE_S)
    assert vehicle.status.state is VehicleState.STOPPED


def test_a_live_source_that_ends_is_opened_again(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    queue = ListQueue()
    sources: list[Source] = [
        WaitingSource(drive.rig, messages, ends=True),
        WaitingSource(drive.rig, messages),
    ]
    vehicle, _ = make(lambda: sources.pop(0), queue)
    vehicle.start()
    until(lambda: len(queue.ends) == 1 and not sources and len({one.run_id for one in queue.results}) == 2)
    assert vehicle.drain(PATIENCE_S), "a source that waits for messages is interrupted"
    assert [end.reason for end in queue.ends] == ["completed", "interrupted"]


def test_a_queue_that_refuses_is_opened_again(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    queue = ListQueue(refusals=1)
    vehicle, _ = make(lambda: MemorySource(drive.rig, messages), queue)
    vehicle.start()
    until(lambda: vehicle.status.state is VehicleState.FINISHED)
    assert [end.reason[:6] for end in queue.ends] == ["failed", "comple"]


def test_an_engine_that_died_is_started_anew(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    queue, engine = ListQueue(), FakeEngine()
    engine.fails = EngineError("an engine process died")
    vehicle, shared = make(lambda: MemorySource(drive.rig, messages), queue, engine=engine)
    vehicle.start()
    until(lambda: vehicle.status.state is VehicleState.FINISHED)
    assert engine.is_closed
    assert shared.loads == 2
    assert [end.reason for end in queue.ends] == ["failed: EngineError: an engine process died", "completed"]


def test_a_broken_vehicle_does_not_harm_another(drive: SyntheticSource, messages: list[AnyMessage]) -> None:
    def break_badly() -> Source:
        raise ZeroDivisionError("a bug in a reader")

    queue = ListQueue()
    broken, _ = make(break_badly, ListQueue())
    sound, _ = make(lambda: MemorySource(drive.rig, messages), queue)
    broken.start()
    sound.start()
    until(lambda: sound.status.state is VehicleState.FINISHED and broken.status.failures > 0)
    assert queue.ends[0].reason == "completed"
    assert broken.drain(PATIENCE_S)
