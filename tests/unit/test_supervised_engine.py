"""What an engine does when its processes die, hang or crash on a message: with processes that are made up."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from perception.config.schema import SupervisionConfig
from perception.core.errors import EngineError
from perception.core.messages import CameraFrame, Command, Signal
from perception.core.ports import FeatureHandle
from perception.core.results import Detections, PathHints
from perception.core.stages import CameraRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.stages import Encoded
from perception.runtime.ray_engine import ColocatedEngine, SplitEngine
from perception.runtime.supervised_engine import SupervisedEngine
from perception.sources.synthetic_rig import synthetic_rig

PATIENCE_S = 60.0
CAMERA = synthetic_rig()["CAM_FRONT"].camera
assert CAMERA is not None


class Ref:
    def __init__(self, future: "Future[Any]") -> None:
        self._future = future

    def future(self) -> "Future[Any]":
        return self._future


class FakeProcess:
    """Works through its calls in a thread; dies when told to, or on a payload that says so."""

    def __init__(self, before: Callable[["FakeProcess", str], None]) -> None:
        self.pid = id(self)
        self.actor = self
        self._before = before
        self._kept: dict[int, Encoded] = {}
        self._calls = ThreadPoolExecutor(1)
        self._is_dead = self.is_stopped = False
        self._go = threading.Event()
        self._go.set()
        self._owed: list[Future[Any]] = []
        self._on_lost: Callable[..., None] | None = None
        self.encode, self.fuse, self.work = _Method(self, "encode"), _Method(self, "fuse"), _Method(self, "work")

    def call(self, name: str, arguments: Sequence[Any]) -> Ref:
        outcome: Future[Any] = Future()
        self._owed.append(outcome)
        if self._is_dead:
            outcome.set_exception(ActorDiedError())
        else:
            self._calls.submit(self._run, name, arguments, outcome)
        return Ref(outcome)

    def tell(self, *arguments: Any) -> None:
        self.call("work", arguments)

    def ask(self, *arguments: Any) -> "Future[Any]":
        return self.call("work", arguments).future()

    def die(self) -> None:
        if self._is_dead:
            return
        self._is_dead = True
        self._go.set()
        for outcome in self._owed:
            if not outcome.done():
                outcome.set_exception(ActorDiedError())
        if self._on_lost is not None:
            self._on_lost(self, "killed", False)

    def stop(self) -> None:
        self.is_stopped = True
        self._go.clear()

    def await_ready(self, _: float) -> ModelInfo:
        return ModelInfo(name="fake", hash="0" * 16, trained=False)

    def finish(self, ref: Ref, timeout_s: float) -> None:
        ref.future().result(timeout_s)

    def watch(self, on_lost: Callable[..., None]) -> None:
        self._on_lost = on_lost

    def forgive(self) -> None: ...

    def hang(self, silent_after_s: float, work_timeout_s: float) -> str | None:
        return "it gave no sign of life" if self.is_stopped else None

    def kill(self, *, hangs: bool = False) -> None:
        self._on_lost = None
        self.die()

    def _run(self, name: str, arguments: Sequence[Any], outcome: "Future[Any]") -> None:
        self._go.wait()
        try:
            value = getattr(self, f"_{name}")(*[a.future().result() if isinstance(a, Ref) else a for a in arguments])
        except Exception as error:
            if not outcome.done():
                outcome.set_exception(error)
            return
        if not outcome.done():
            outcome.set_result(value)

    def _encode(self, request: CameraRequest) -> Encoded:
        self._before(self, request.key)
        if self._is_dead:
            raise ActorDiedError
        return Encoded(stage=request.key, sensors=("CAM",), features=None, error=None, started_ns=0, finished_ns=0)

    def _fuse(self, request: FuseRequest, *encoded: Encoded) -> FusionOutput:
        self._before(self, f"fuse {request.reference_ns}")
        if self._is_dead:
            raise ActorDiedError
        return FusionOutput(
            detections=Detections.empty(),
            path_hints=HINTS,
            failures={one.sensors[0]: one.error for one in encoded if one.error is not None},
            stage_latency_ns={one.stage: 1 for one in encoded},
            dense={},
        )

    def _work(
        self, encode: Any, given: Any, fuse: FuseRequest | None, numbers: Sequence[int], forget: Sequence[int]
    ) -> FusionOutput | None:
        self._kept.update(given)
        for number, request in encode:
            self._kept[number] = self._encode(request)
        try:
            return None if fuse is None else self._fuse(fuse, *[self._kept[number] for number in numbers])
        finally:
            for number in forget:
                self._kept.pop(number, None)


class _Method:
    def __init__(self, process: FakeProcess, name: str) -> None:
        self._process, self._name = process, name

    def remote(self, *arguments: Any) -> Ref:
        return self._process.call(self._name, arguments)


HINTS = PathHints(
    confidence=np.ones(1, dtype=np.float32),
    waypoints_m=np.zeros((1, 6, 2), dtype=np.float32),
    times_s=np.linspace(0.5, 3.0, 6, dtype=np.float32),
    target_speed_mps=0.0,
)
ENGINES: dict[str, type[SplitEngine | ColocatedEngine]] = {"split": SplitEngine, "colocated": ColocatedEngine}


def request_of(key: str) -> CameraRequest:
    assert CAMERA is not None
    frame = CameraFrame(sensor="CAM", capture_ns=hash(key) % 10**9, arrival_ns=0, data=key.encode())
    return CameraRequest(key=key, frame=frame, camera=CAMERA)


def fuse_of(time_ns: int) -> FuseRequest:
    return FuseRequest(
        reference_ns=time_ns,
        cameras=(),
        lidars=(),
        lidar_age_ns=(),
        radar_age_ns=None,
        speed_mps=0.0,
        yaw_rate_radps=0.0,
        command=Command.FOLLOW,
        speed_limit_mps=None,
        route_distance_m=None,
        signal=Signal.UNKNOWN,
    )


@contextmanager
def engine_of(
    placement: str, tmp_path: Path, before: Callable[[FakeProcess, str], None] = lambda *_: None, **changes: Any
) -> Iterator[tuple[SupervisedEngine, list[FakeProcess]]]:
    """The engine, and its processes in the order in which they were started."""
    started: list[FakeProcess] = []

    def start() -> Any:
        started.append(FakeProcess(before))
        return started[-1]

    config = SupervisionConfig(quarantine=tmp_path, **changes)
    engine = ENGINES[placement](start, config)
    try:
        yield engine, started
    finally:
        engine.close()


def frame(engine: SupervisedEngine, number: int, keys: Sequence[str] = ("a", "b")) -> "Future[FusionOutput]":
    handles: list[FeatureHandle] = [engine.encode(request_of(f"{key}{number}")) for key in keys]
    outcome = engine.fuse(fuse_of(number), handles)
    engine.release(handles)
    return outcome


def used(output: FusionOutput) -> set[str]:
    return set(output.stage_latency_ns)


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("placement", ["colocated", "split"])
@pytest.mark.parametrize("when", ["a1", "b1", "fuse 1", "b2", "fuse 3"])
def test_whatever_a_dead_process_owed_is_done_again(placement: str, when: str, tmp_path: Path) -> None:
    died: list[str] = []

    def die_once(process: FakeProcess, what: str) -> None:
        if what == when and not died:
            died.append(what)
            process.die()

    with engine_of(placement, tmp_path, die_once) as (engine, _):
        outcomes = [frame(engine, number) for number in range(5)]
        outputs = [outcome.result(PATIENCE_S) for outcome in outcomes]
        state = engine.supervision()
    assert [used(output) for output in outputs] == [{f"a{n}", f"b{n}"} for n in range(5)]
    role = "all" if placement == "colocated" else "fusion" if "fuse" in when else "camera"
    assert state.restarts == {role: 1}
    assert state.quarantined == 0
    assert [dict(output.restarts) for output in outputs if output.restarts] == [{role: 1}]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_a_process_that_hangs_is_killed_and_replaced(placement: str, tmp_path: Path) -> None:
    with engine_of(placement, tmp_path) as (engine, started):
        frame(engine, 0).result(PATIENCE_S)
        started[-1].stop()
        assert used(frame(engine, 1).result(PATIENCE_S)) == {"a1", "b1"}
        state = engine.supervision()
    assert state.hung == 1
    assert sum(state.restarts.values()) == 1


@pytest.mark.parametrize("placement", ["colocated", "split"])
@pytest.mark.parametrize("poison_after", [2, 3, 5])
def test_only_the_message_that_crashes_its_encoder_is_put_aside(
    placement: str, poison_after: int, tmp_path: Path
) -> None:
    def crash(process: FakeProcess, what: str) -> None:
        if what == "b2":
            process.die()

    with engine_of(placement, tmp_path, crash, poison_after=poison_after, max_restarts=10) as (engine, _):
        outputs = [outcome.result(PATIENCE_S) for outcome in [frame(engine, number) for number in range(5)]]
        state = engine.supervision()
        again = frame(engine, 2).result(PATIENCE_S)
        assert engine.supervision().restarts == state.restarts
    for number, output in enumerate(outputs):
        assert used(output) >= {f"a{number}"}
        assert output.quarantined == (("CAM",) if number == 2 else ())
        assert ("CAM" in output.failures) == (number == 2)
    assert again.quarantined == ("CAM",)
    assert state.quarantined == 1
    assert sum(state.restarts.values()) == max(2, poison_after)
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin", ".json"}
    assert next(tmp_path.glob("*.bin")).read_bytes() == b"b2"


def test_an_engine_that_dies_again_and_again_gives_up(tmp_path: Path) -> None:
    def crash(process: FakeProcess, what: str) -> None:
        if what.startswith("fuse"):
            process.die()

    with engine_of("colocated", tmp_path, crash, max_restarts=2) as (engine, _):
        with pytest.raises(EngineError, match="restarted 2 times within 120 s and no frame was finished"):
            frame(engine, 0).result(PATIENCE_S)
        with pytest.raises(EngineError, match="restarted 2 times"):
            frame(engine, 1)


def test_a_standby_takes_over_and_is_replaced(tmp_path: Path) -> None:
    with engine_of("colocated", tmp_path, standby=True) as (engine, started):
        assert len(started) == 2
        started[0].die()
        assert used(frame(engine, 0).result(PATIENCE_S)) == {"a0", "b0"}
        assert engine.supervision().pids == {"all": started[1].pid}
        until(lambda: len(started) == 3)
        started[2].die()
        until(lambda: len(started) == 4)
        assert engine.supervision().restarts == {"all": 1}, "the loss of a standby is no restart"


def test_an_error_of_the_encoder_is_no_death(tmp_path: Path) -> None:
    def fail(process: FakeProcess, what: str) -> None:
        if what == "a0":
            raise ValueError("its own")

    with engine_of("split", tmp_path, fail) as (engine, _):
        with pytest.raises(ValueError, match="its own"):
            frame(engine, 0).result(PATIENCE_S)
        assert used(frame(engine, 1).result(PATIENCE_S)) == {"a1", "b1"}
        assert engine.supervision().restarts == {}


def test_the_quarantine_is_bounded_on_disk(tmp_path: Path) -> None:
    def crash(process: FakeProcess, what: str) -> None:
        if what.startswith("b"):
            process.die()

    with engine_of("split", tmp_path, crash, poison_after=2, quarantine_limit=2) as (engine, _):
        for number in range(4):
            assert frame(engine, number).result(PATIENCE_S).quarantined == ("CAM",)
        assert engine.supervision().quarantined == 4
    assert len(list(tmp_path.glob("*.json"))) == 2
