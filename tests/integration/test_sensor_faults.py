"""Faulty sensors through the service: findings in every result, masking, and its account."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from perception.config.load import load_service_config
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.core.ports import Engine
from perception.core.results import PerceptionResult, SensorStatus
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.bench_drive import in_memory_drive
from perception.sources.memory import MemorySource

FROZEN_FROM_NS = 800_000_000


@pytest.fixture(scope="module")
def drive() -> MemorySource:
    return in_memory_drive(duration_s=1.6)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = LocalEngine(open_model(load_service_config(None, ()).model), threads=1)
    yield engine
    engine.close()


def play(source: MemorySource, engine: Engine, *overrides: str) -> tuple[list[PerceptionResult], RunSummary]:
    results: list[PerceptionResult] = []
    config = load_service_config(None, overrides)
    summary = run_drive(source, engine, config, run_id="run", on_result=results.append, options=ReplayOptions())
    return results, summary


def frozen(drive: MemorySource, sensor: str) -> MemorySource:
    """The drive with a sensor that repeats what it saw at `FROZEN_FROM_NS`, under new stamps."""
    begun_ns = next(drive.messages()).capture_ns
    held: AnyMessage | None = None
    messages: list[AnyMessage] = []
    for message in drive.messages():
        if message.sensor == sensor and message.capture_ns - begun_ns > FROZEN_FROM_NS:
            held = held or message
            assert isinstance(held, CameraFrame | LidarSweep | RadarScan)
            message = replace(held, capture_ns=message.capture_ns, arrival_ns=message.arrival_ns)
        messages.append(message)
    return MemorySource(drive.rig, messages)


def status_of(result: PerceptionResult, sensor: str) -> SensorStatus:
    return next(status for status in result.sensors if status.name == sensor)


def test_a_healthy_drive_has_no_findings(drive: MemorySource, engine: Engine) -> None:
    results, summary = play(drive, engine)
    assert len(results) > 10
    assert [fault for result in results for status in result.sensors for fault in status.faults] == []
    assert "masked" not in summary.dropped


@pytest.mark.parametrize("index", [0, 6, 7])
def test_a_frozen_sensor_is_reported_left_out_and_counted(drive: MemorySource, engine: Engine, index: int) -> None:
    sensor = [*drive.rig.sensors][index]
    results, summary = play(frozen(drive, sensor.name), engine)
    states = [status_of(result, sensor.name) for result in results]
    masked = [state for state in states if state.masked]
    kind = "stuck" if sensor.modality == "radar" else "frozen"
    assert len(masked) >= 3
    assert all(not state.present and state.age_ns is None for state in masked)
    assert all({fault.kind for fault in state.faults} == {kind} for state in masked)
    assert states[-1].masked
    assert not states[2].masked
    assert summary.dropped["masked"] == len(masked)
    assert sum(result.provenance.dropped.get("masked", 0) for result in results) == len(masked)


def test_a_fault_only_warns_where_the_settings_say_so(drive: MemorySource, engine: Engine) -> None:
    sensor = drive.rig.sensors[0].name
    results, summary = play(frozen(drive, sensor), engine, "health.mask=[]")
    last = status_of(results[-1], sensor)
    assert [fault.kind for fault in last.faults] == ["frozen"]
    assert last.present
    assert not last.masked
    assert "masked" not in summary.dropped


def test_content_is_left_alone_where_the_settings_say_so(drive: MemorySource, engine: Engine) -> None:
    sensor = drive.rig.sensors[0].name
    results, _ = play(frozen(drive, sensor), engine, "health.content=false")
    assert all(not status.faults for result in results for status in result.sensors)


def test_findings_are_the_same_twice(drive: MemorySource, engine: Engine) -> None:
    source = frozen(drive, drive.rig.sensors[0].name)
    first, second = (play(source, engine)[0] for _ in range(2))
    assert [result.sensors for result in first] == [result.sensors for result in second]
