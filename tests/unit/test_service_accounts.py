"""What the service says of itself: metrics, log lines, and the trace of its frames."""

import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns

import numpy as np
import pynvml
import pytest

from perception.config.serving import LogConfig
from perception.core.errors import ConfigError, DriveError
from perception.core.faults import SensorFault, Severity
from perception.core.messages import Command, EgoState, Signal
from perception.core.results import EndOfRun, PerceptionResult
from perception.core.stages import FuseRequest, ModelInfo
from perception.core.supervision import SupervisionState
from perception.pipeline.replay import RunSummary
from perception.queues.samples import sample_result
from perception.runtime import machine_memory
from perception.runtime.metrics import Depths, ServiceMetrics
from perception.runtime.service_log import ServiceLog, log, set_up_logging
from perception.runtime.service_spans import MAX_OPEN, FrameSpans, SpanWatcher
from perception.runtime.service_trace import ChromeTrace
from perception.runtime.service_watch import VehicleState
from tests.unit.service_parts import output


def result(sequence: int = 0, **changes: object) -> PerceptionResult:
    made = sample_result(np.random.default_rng(sequence), sequence=sequence, detections=2)
    provenance = replace(
        made.provenance,
        dropped={"overload": 2, "late": 1},
        stage_latency_ns={"camera": 4_000_000, "fusion": 8_000_000, "since_last_message": 30_000_000},
        deadline_slack_ns=50_000_000,
    )
    sensors = tuple(replace(one, faults=()) for one in made.sensors)
    return replace(made, provenance=provenance, sensors=sensors, **changes)  # type: ignore[arg-type]


def request(reference_ns: int) -> FuseRequest:
    return FuseRequest(
        reference_ns=reference_ns, cameras=(), lidars=(), lidar_age_ns=(), radar_age_ns=None, speed_mps=0.0,
        yaw_rate_radps=0.0, command=Command.FOLLOW, speed_limit_mps=None, signal=Signal.UNKNOWN,
        route_distance_m=None,
        received_ns=monotonic_ns() - 5_000_000,
    )  # fmt: skip


def summary(reason: str, *, drive_id: str = "d", dropped: dict[str, int] | None = None) -> RunSummary:
    end = EndOfRun(drive_id=drive_id, run_id="one", count=2, reason=reason)
    return RunSummary(end=end, messages=9, dropped=Counter(dropped or {}))


def value(metrics: ServiceMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_results_are_counted_by_stage_cause_and_sensor() -> None:
    metrics = ServiceMetrics()
    for sequence in range(3):
        metrics.result("anna", result(sequence))
    assert value(metrics, "perception_results_total", vehicle="anna") == 3
    assert value(metrics, "perception_dropped_total", vehicle="anna", cause="overload") == 6
    assert value(metrics, "perception_stage_seconds_count", vehicle="anna", stage="fusion") == 3
    assert value(metrics, "perception_stage_seconds_sum", vehicle="anna", stage="fusion") == pytest.approx(0.024)
    assert value(metrics, "perception_stage_seconds_count", vehicle="anna", stage="since_last_message") is None
    assert value(metrics, "perception_result_latency_seconds_bucket", vehicle="anna", le="0.02") == 0
    assert value(metrics, "perception_result_latency_seconds_bucket", vehicle="anna", le="0.03") == 3
    assert value(metrics, "perception_detections", vehicle="anna") == 2
    last = result(2)
    for status in last.sensors:
        labels = {"vehicle": "anna", "sensor": status.name}
        assert value(metrics, "perception_sensor_present", **labels) == status.present
        assert value(metrics, "perception_sensor_frequency_hertz", **labels) == status.frequency_hz
        age_s = value(metrics, "perception_sensor_age_seconds", **labels)
        assert age_s is not None
        assert np.isnan(age_s) if status.age_ns is None else age_s == pytest.approx(status.age_ns / 1e9)


def test_messages_runs_states_and_models_are_counted() -> None:
    metrics = ServiceMetrics()
    state = EgoState(
        sensor="ego", capture_ns=1, arrival_ns=2, world_SE3_ego=None, velocity_mps=None, yaw_rate_radps=None
    )
    metrics.message("anna", state)
    metrics.ended("anna", summary("completed"))
    metrics.failed("anna", DriveError("broken"), 0.5)
    metrics.state("anna", VehicleState.WAITING)
    metrics.model(ModelInfo(name="tiny", hash="1" * 16, trained=True), "local", "full")
    metrics.model(ModelInfo(name="small", hash="2" * 16, trained=False), "local", "full")
    assert value(metrics, "perception_messages_total", vehicle="anna", sensor="ego") == 1
    assert value(metrics, "perception_runs_total", vehicle="anna", reason="completed") == 1
    assert value(metrics, "perception_runs_total", vehicle="anna", reason="failed") == 1
    states = {
        name.value: value(metrics, "perception_vehicle_state", vehicle="anna", perception_vehicle_state=name.value)
        for name in VehicleState
    }
    assert states == {name.value: float(name is VehicleState.WAITING) for name in VehicleState}
    models = [line for line in metrics.render().decode().splitlines() if line.startswith("perception_model_info{")]
    assert models == [
        f'perception_model_info{{hash="{"2" * 16}",name="small",placement="local",tier="full",trained="false"}} 1.0'
    ]
    assert value(metrics, "perception_model_loads_total") == 2


def test_depths_and_memory_are_asked_for_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = ServiceMetrics()
    depths = {"anna": Depths(frames=2, waiting=None), "berta": Depths(frames=0, waiting=17)}
    metrics.watch_depths(lambda: depths)
    assert value(metrics, "perception_frames_in_flight", vehicle="anna") == 2
    assert value(metrics, "perception_queue_waiting", vehicle="anna") is None
    assert value(metrics, "perception_queue_waiting", vehicle="berta") == 17
    depths["anna"] = Depths(frames=3, waiting=None)
    assert value(metrics, "perception_frames_in_flight", vehicle="anna") == 3
    assert (value(metrics, "process_resident_memory_bytes") or 0) > 1e6
    assert value(metrics, "perception_workers_resident_bytes") is not None


def test_losses_after_the_last_result_are_counted_too() -> None:
    metrics = ServiceMetrics()
    for _ in range(2):
        metrics.result("anna", result(0))
        metrics.ended("anna", summary("completed", dropped={"overload": 2, "late": 4, "unmatched": 7}))
    counted = {
        cause: value(metrics, "perception_dropped_total", vehicle="anna", cause=cause)
        for cause in ("overload", "late", "unmatched")
    }
    assert counted == {"overload": 4, "late": 8, "unmatched": 14}


def test_faults_of_sensors_come_and_go() -> None:
    metrics, sound = ServiceMetrics(), result(0)
    fault = SensorFault(kind="dark", since_ns=0, severity=Severity.WARNING, detail="mean 3 of 255")
    name = sound.sensors[0].name
    ill = replace(sound, sensors=(replace(sound.sensors[0], faults=(fault,)), *sound.sensors[1:]))
    labels = {"vehicle": "anna", "sensor": name, "kind": "dark", "severity": Severity.WARNING.value}
    metrics.result("anna", ill)
    assert value(metrics, "perception_sensor_fault", **labels) == 1
    metrics.result("anna", sound)
    assert value(metrics, "perception_sensor_fault", **labels) == 0


def test_what_the_engine_says_of_its_processes_is_told() -> None:
    metrics = ServiceMetrics()
    states = [
        SupervisionState(
            restarts={"all": 3}, hung=1, quarantined=2, recovering=("all",), last_outage_s=0.5, pids={"all": 7}
        ),
        None,
    ]
    metrics.watch_engine(lambda: states[-1])
    assert value(metrics, "perception_engine_restarts_total", role="all") is None
    states.pop()
    assert value(metrics, "perception_engine_restarts_total", role="all") == 3
    assert value(metrics, "perception_engine_hung_total") == 1
    assert value(metrics, "perception_engine_quarantined_total") == 2
    assert value(metrics, "perception_engine_recovering") == 1


def test_devices_are_asked_for_by_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"used": 3, "total": 8})
    for name, answer in (
        ("nvmlInit", None),
        ("nvmlDeviceGetCount", 2),
        ("nvmlDeviceGetHandleByIndex", object()),
        ("nvmlDeviceGetMemoryInfo", memory),
    ):
        monkeypatch.setattr(pynvml, name, lambda *_, given=answer: given)
    monkeypatch.setattr(machine_memory, "_has_driver", machine_memory._has_driver.__wrapped__)
    assert [(one.name, one.used_bytes, one.total_bytes) for one in machine_memory.devices()] == [
        ("cuda:0", 3, 8),
        ("cuda:1", 3, 8),
    ]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "service.log"
    handler = set_up_logging(LogConfig(level="debug", file=path))
    yield path
    logging.getLogger().removeHandler(handler)
    handler.close()


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_lines_say_vehicle_drive_run_and_sequence(lines: Path) -> None:
    account = ServiceLog()
    first, second = result(0, run_id="one"), result(1, run_id="one")
    account.result("anna", first)
    account.result("anna", second)
    account.ended("anna", summary("completed", drive_id=first.drive_id))
    began, _, debug, ended = read(lines)
    where = {"vehicle": "anna", "drive_id": first.drive_id, "run_id": "one"}
    assert began["message"] == "run began"
    assert debug.items() >= {**where, "message": "result", "sequence": 1, "dropped": {"late": 1, "overload": 2}}.items()
    assert ended.items() >= {**where, "message": "run ended", "results": 2, "reason": "completed"}.items()
    assert {line["level"] for line in read(lines)} == {"info", "debug"}
    assert all(str(line["time"]).endswith("+00:00") for line in read(lines))


def test_known_failures_are_warnings_and_others_bring_their_traceback(lines: Path) -> None:
    account = ServiceLog()
    account.failed("anna", DriveError("the cable was pulled"), 0.5)
    account.failed("anna", ZeroDivisionError("a bug"), 1.0)
    known, unknown = read(lines)
    assert (known["level"], known["error"], known["again_in_s"]) == ("warning", "DriveError", 0.5)
    assert "traceback" not in known
    assert unknown["level"] == "error"
    assert "ZeroDivisionError: a bug" in str(unknown["traceback"])


def test_a_line_is_written_when_what_is_wrong_with_a_sensor_changes(lines: Path) -> None:
    account, sound = ServiceLog(), result(0)
    fault = SensorFault(kind="dark", since_ns=0, severity=Severity.WARNING, detail="mean 3 of 255")
    ill = replace(sound, sensors=(replace(sound.sensors[0], faults=(fault,)), *sound.sensors[1:]))
    for one in (sound, ill, ill, sound):
        account.result("anna", one)
    told = [line for line in read(lines) if "sensor" in line]
    assert [(line["level"], line["message"], line["faults"]) for line in told] == [
        ("warning", "sensor is faulty", ["dark: mean 3 of 255"]),
        ("info", "sensor is sound again", []),
    ]


def test_a_log_that_was_moved_away_is_begun_anew(lines: Path) -> None:
    log(logging.INFO, "before")
    lines.rename(lines.with_suffix(".1"))
    log(logging.INFO, "after")
    assert [line["message"] for line in read(lines)] == ["after"]


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"logs\.file: .*cannot be written"):
        set_up_logging(LogConfig(file=tmp_path / "missing" / "log"))


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr("sys.stderr", text)
    handler = set_up_logging(LogConfig(format="text"))
    log(logging.INFO, "run began", vehicle="anna")
    logging.getLogger().removeHandler(handler)
    assert text.getvalue().endswith(" info    run began vehicle=anna\n")


def frames(count: int) -> list[FrameSpans]:
    written: list[FrameSpans] = []
    watcher = SpanWatcher(written.append, lambda: None)
    for sequence in range(count):
        one = result(sequence, reference_ns=sequence)
        watcher.fused("anna", request(sequence), output(), monotonic_ns())
        watcher.result("anna", one)
    return written


def test_a_frame_is_put_together_from_what_is_heard_of_it() -> None:
    (frame,) = frames(1)
    assert frame.vehicle == "anna"
    assert frame.received_ns < frame.asked_ns <= frame.published_ns
    assert [stage.stage for stage in frame.stages] == ["camera", "fusion"]


def test_frames_that_are_never_published_are_forgotten() -> None:
    watcher = SpanWatcher(lambda frame: None, lambda: None)
    for reference_ns in range(2 * MAX_OPEN):
        watcher.fused("anna", request(reference_ns), output(), 0)
    assert len(watcher._open["anna"]) == MAX_OPEN
    watcher.result("anna", result(0, reference_ns=0))  # long forgotten; nothing happens


def test_a_trace_has_each_stage_at_its_time(tmp_path: Path) -> None:
    path = tmp_path / "traces" / "trace.json"
    trace = ChromeTrace(path, max_bytes=10**6)
    written = frames(3)
    for frame in written:
        trace.write(frame)
    trace.close()
    events = [event for event in json.loads(path.read_text()) if event]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {"anna", "camera", "fusion"}
    stages = [event for event in events if event["ph"] == "X"]
    assert [event["args"]["sequence"] for event in stages] == [0, 0, 1, 1, 2, 2]
    for event, stage in zip(stages, [stage for frame in written for stage in frame.stages], strict=True):
        assert event["dur"] == pytest.approx((stage.finished_ns - stage.started_ns) / 1e3)
    gaps_us = np.diff([event["ts"] for event in stages if event["cat"] == "fusion"])
    starts_ns = [stage.started_ns for frame in written for stage in frame.stages if stage.stage == "fusion"]
    assert gaps_us == pytest.approx(np.diff(starts_ns) / 1e3)
    begins = [event for event in events if event["ph"] == "b" and event["name"] == "frame"]
    ends = [event for event in events if event["ph"] == "e" and event["name"] == "frame"]
    assert [event["id"] for event in begins] == [event["id"] for event in ends]
    for begin, end, frame in zip(begins, ends, written, strict=True):
        assert end["ts"] - begin["ts"] == pytest.approx((frame.published_ns - frame.received_ns) / 1e3)


def test_a_trace_of_a_killed_service_is_whole_but_for_its_bracket(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = ChromeTrace(path, max_bytes=10**6)
    trace.write(frames(1)[0])
    text = path.read_text()
    assert text.endswith(",\n")
    assert len(json.loads(text + "{}]")) > 3
    trace.close()


def test_a_large_trace_begins_anew_and_keeps_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = ChromeTrace(path, max_bytes=4000)
    for frame in frames(12):
        trace.write(frame)
    trace.close()
    old, new = (json.loads(file.read_text()) for file in (tmp_path / "trace.json.1", path))
    assert {event["args"]["name"] for event in new if event.get("ph") == "M"} >= {"anna"}
    kept = [event["args"]["sequence"] for event in (*old, *new) if event.get("cat") == "fusion"]
    assert kept == list(range(kept[0], 12))
    assert kept[0] > 0, "the oldest file is gone"
    assert path.stat().st_size < 8000


def test_a_trace_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"traces\.file: .*cannot be written"):
        ChromeTrace(tmp_path / "file" / "trace.json", max_bytes=1000)
