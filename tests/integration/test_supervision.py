"""Engine processes killed, stopped, crashed by their input: results are those of a run in which nothing happened."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from perception.config.schema import ModelChoice, RuntimeConfig, ServiceConfig, SupervisionConfig
from perception.core.errors import EngineError
from perception.core.messages import AnyMessage, CameraFrame
from perception.core.ports import Engine, Source, Supervised
from perception.core.results import PerceptionResult
from perception.core.rig import SensorRig
from perception.core.stages import CameraRequest, EncodeRequest
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.pipeline.stages import Encoded, open_model
from perception.runtime.actors import StageWorker
from perception.runtime.ray_engine import Placement, ray_engine
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from perception.sources.synthetic_rig import synthetic_rig
from tests.undisturbed import decided

pytestmark = pytest.mark.ray

CHOICE = ModelChoice(score_threshold=0.0)
CONFIG = ServiceConfig(runtime=RuntimeConfig(result_timeout_s=240))
PATIENT = SupervisionConfig(silent_after_s=5)
POISON = b"poison"
RATE_HZ, FRAMES = 10.0, 14


class Crashes(StageWorker):
    """Ends its process, as a bug in a decoder would, on an image that carries the mark."""

    def encode_one(self, request: EncodeRequest) -> Encoded:
        if isinstance(request, CameraRequest) and request.frame.data.endswith(POISON):
            os._exit(42)
        return super().encode_one(request)


@contextmanager
def engine_of(
    placement: Placement, supervision: SupervisionConfig = PATIENT, worker: type[StageWorker] = StageWorker
) -> Iterator[Supervised]:
    engine = ray_engine(CHOICE, placement=placement, threads=1, supervision=supervision, worker=worker)
    try:
        yield engine
    finally:
        engine.close()


def results_of(
    source: Source, engine: Engine, then: Callable[[int], None] = lambda _: None
) -> tuple[list[PerceptionResult], RunSummary]:
    """`then` is called after each result with their number so far."""
    results: list[PerceptionResult] = []

    def deliver(result: PerceptionResult) -> None:
        results.append(result)
        then(len(results))

    summary = run_drive(source, engine, CONFIG, run_id="r", on_result=deliver, options=ReplayOptions())
    return results, summary


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    """Few sensors at a low rate: what is shown here does not depend on them."""
    full = synthetic_rig()
    rig = SensorRig(
        sensors=tuple(
            replace(full[name], frequency_hz=RATE_HZ) for name in ("CAM_FRONT", "CAM_BACK", "LIDAR_TOP", "RADAR_FRONT")
        )
    )
    made = SyntheticSource(duration_s=FRAMES / RATE_HZ, rig=rig)
    return MemorySource(made.rig, list(made.messages()))


@pytest.fixture(scope="module")
def undisturbed(drive: MemorySource) -> list[str]:
    results, _ = results_of(drive, LocalEngine(open_model(CHOICE), threads=1))
    assert len(results) == FRAMES
    return [decided(replace_placement(result)) for result in results]


def replace_placement(result: PerceptionResult) -> PerceptionResult:
    return replace(result, provenance=replace(result.provenance, placement="any"))


@pytest.mark.parametrize(
    ("placement", "roles"), [("colocated", ("all", "all")), ("split", ("camera", "lidar", "radar", "fusion"))]
)
def test_killed_processes_cost_time_and_nothing_else(
    ray: None, drive: MemorySource, undisturbed: list[str], placement: Placement, roles: tuple[str, ...]
) -> None:
    with engine_of(placement, PATIENT.model_copy(update={"standby": True})) as engine:

        def kill(done: int) -> None:
            if done % 3 == 1 and done // 3 < len(roles):
                os.kill(engine.supervision().pids[roles[done // 3]], signal.SIGKILL)

        results, _ = results_of(drive, engine, kill)
        state = engine.supervision()
    assert [decided(replace_placement(result)) for result in results] == undisturbed
    assert state.restarts == Counter(roles)
    reported = sum((Counter(result.provenance.restarts) for result in results), Counter[str]())
    assert reported == Counter(roles)
    assert state.hung == 0
    assert state.last_outage_s is not None


@pytest.mark.parametrize(("placement", "role"), [("colocated", "all"), ("split", "fusion")])
def test_a_stopped_process_is_found_by_the_watchdog(
    ray: None, drive: MemorySource, undisturbed: list[str], placement: Placement, role: str
) -> None:
    with engine_of(placement) as engine:

        def stop(done: int) -> None:
            if done == 3:
                os.kill(engine.supervision().pids[role], signal.SIGSTOP)

        results, _ = results_of(drive, engine, stop)
        state = engine.supervision()
    assert [decided(replace_placement(result)) for result in results] == undisturbed
    assert state.restarts == {role: 1}
    assert state.hung == 1


def poisoned(drive: MemorySource, at: int) -> tuple[MemorySource, CameraFrame]:
    """The drive with a mark on one image of CAM_FRONT that no decoder minds."""
    messages: list[AnyMessage] = list(drive.messages())
    fronts = [i for i, m in enumerate(messages) if isinstance(m, CameraFrame) and m.sensor == "CAM_FRONT"]
    frame = messages[fronts[at]]
    assert isinstance(frame, CameraFrame)
    messages[fronts[at]] = marked = replace(frame, data=frame.data + POISON)
    return MemorySource(drive.rig, messages), marked


@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_a_message_that_crashes_its_encoder_is_put_aside_and_the_run_goes_on(
    ray: None, drive: MemorySource, undisturbed: list[str], placement: Placement, tmp_path: Path
) -> None:
    source, marked = poisoned(drive, at=5)
    config = PATIENT.model_copy(update={"quarantine": tmp_path / "quarantine"})
    with engine_of(placement, config, Crashes) as engine:
        results, summary = results_of(source, engine)
        state = engine.supervision()
        again, _ = results_of(source, engine)
        assert engine.supervision().restarts == state.restarts, "what is known to crash must not be tried again"
    hurt = [i for i, result in enumerate(results) if result.provenance.quarantined]
    assert hurt
    for i in hurt:
        front = next(status for status in results[i].sensors if status.name == "CAM_FRONT")
        assert (front.present, front.valid) == (False, False)
        assert results[i].provenance.quarantined == ("CAM_FRONT",)
        assert results[i].provenance.dropped["quarantined"] == 1
    assert summary.dropped["quarantined"] == len(hurt)
    assert summary.dropped["unreadable"] == 0
    first = hurt[0]
    assert [decided(replace_placement(result)) for result in results[:first]] == undisturbed[:first]
    assert [decided(result) for result in again] == [decided(result) for result in results]
    assert state.restarts == {"all" if placement == "colocated" else "camera": 3}
    account = json.loads((tmp_path / "quarantine" / f"CAM_FRONT-{marked.capture_ns}.json").read_text())
    assert account["sensor"] == "CAM_FRONT"
    assert "3 crashes" in account["error"]
    kept = (tmp_path / "quarantine" / account["payload"]).read_bytes()
    assert kept == marked.data


def test_endless_crashes_end_the_run_with_a_clear_error(ray: None, drive: MemorySource, tmp_path: Path) -> None:
    source, _ = poisoned(drive, at=2)
    config = PATIENT.model_copy(update={"max_restarts": 2, "poison_after": 50, "quarantine": tmp_path})
    with (
        engine_of("colocated", config, Crashes) as engine,
        pytest.raises(
            EngineError, match=r"restarted 2 times within 120 s and no frame was finished; the last loss: all"
        ),
    ):
        results_of(source, engine)
    assert not list(tmp_path.iterdir())
