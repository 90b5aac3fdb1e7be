"""A live run that really drops, decided again: the same bundles, drops, deadlines and results."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perception.config.schema import DeadlineConfig, LadderConfig, LiveConfig, PublishConfig, ServiceConfig, SyncConfig
from perception.core.clock import ManualClock
from perception.core.errors import DecisionError
from perception.core.messages import AnyMessage, LidarSweep
from perception.core.results import PerceptionResult
from perception.formats.mcap_decisions import DecisionRecord, pack_decision, read_decision
from perception.pipeline.decisions import DecisionBook
from perception.pipeline.overload import light_messages
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.pipeline.session import Session
from perception.queues.json_form import to_json
from perception.sources.memory import MemorySource
from perception.sources.synthetic_rig import synthetic_rig
from tests.live_engine import SlowEngine

RIG = synthetic_rig()
HANDLERS = ("publish_late", "publish_degraded", "skip")


def drive(duration_s: float = 2.0, name: str = "light") -> MemorySource:
    return MemorySource(RIG, list(light_messages(RIG, duration_s)), drive_id=name)


def configuration(handler: str) -> ServiceConfig:
    return ServiceConfig(
        deadline=DeadlineConfig.model_validate({"budget_ms": 250, "handler": handler}),
        ladder=LadderConfig(cameras=(4, 2), skip=(2,), slow_frames=2, calm_frames=4),
        publish=PublishConfig(predict_to="publication"),
    )


def play_live(
    source: MemorySource, config: ServiceConfig, *, seconds: float = 0.08, rate: float = 2.0
) -> tuple[RunSummary, list[PerceptionResult], DecisionBook]:
    results: list[PerceptionResult] = []
    records: list[DecisionRecord] = []
    summary = run_drive(
        source,
        SlowEngine(seconds),
        config,
        run_id="live",
        on_result=results.append,
        options=ReplayOptions(rate=rate, live=True),
        on_decision=records.append,
    )
    # As they come back from a file.
    return summary, results, DecisionBook.of("run.mcap", [read_decision(pack_decision(one)) for one in records])


def decide_again(
    source: MemorySource, book: DecisionBook, config: ServiceConfig | None = None
) -> tuple[RunSummary, list[PerceptionResult]]:
    results: list[PerceptionResult] = []
    summary = run_drive(
        source,
        SlowEngine(0.0),
        book.settings(config or ServiceConfig()),
        run_id="live",
        on_result=results.append,
        options=ReplayOptions(),
        decisions=book,
    )
    return summary, results


def said(result: PerceptionResult) -> str:
    """All that a result says, but for wall time."""
    provenance = replace(result.provenance, stage_latency_ns={}, placement="")
    return to_json(replace(result, published_ns=0, provenance=provenance))


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_run_that_dropped_is_decided_the_same_again(handler: str) -> None:
    source = drive()
    live, results, book = play_live(source, configuration(handler))
    assert live.account.is_exact
    assert live.account.bundles_dropped, "the run was to be overloaded"
    again, same = decide_again(source, book)
    assert [said(result) for result in same] == [said(result) for result in results]
    assert again.account == live.account
    assert again.dropped == live.dropped
    assert again.messages == live.messages
    assert len(book.bundles) == live.account.bundles


def test_a_result_in_time_is_what_the_last_one_says_of_that_time() -> None:
    source = drive(1.0)
    session = Session(
        drive_id=source.drive_id,
        run_id="run",
        rig=RIG,
        engine=SlowEngine(0.0),
        config=ServiceConfig(),
        clock=ManualClock(),
    )
    frames = [frame for message in source.messages() for frame in session.push(message)]
    frames += session.finish()
    first, later = frames[3], frames[6]
    known = session.complete(first, 1.0)
    assert known is not None
    instead = session.completion.degrade(later)
    assert session.completion.is_degraded(later)
    assert session.complete(later, 1.0) is None, "the real one goes to the tracker alone"
    assert (instead.sequence, instead.degraded, instead.reference_ns) == (1, True, later.bundle.reference_ns)
    elapsed_s = (instead.reference_ns - known.reference_ns) / 1e9
    shift_m = (1.0 - 10.0) * elapsed_s  # objects at 1 m/s, the ego at 10 m/s
    assert np.allclose(instead.detections.center_m[:, 0], known.detections.center_m[:, 0] + shift_m, atol=1e-3)
    assert (instead.detections.track_id == known.detections.track_id).all()
    assert instead.path_hints.times_s[0] == pytest.approx(0.5 - elapsed_s)
    assert not any(status.present for status in instead.sensors)
    after = session.complete(frames[7], 1.0)
    assert after is not None
    assert after.sequence == 2


def other_name(source: MemorySource) -> MemorySource:
    return MemorySource(RIG, list(source.messages()), drive_id="another")


def other_rig(source: MemorySource) -> MemorySource:
    mount = RIG.sensors[0].ego_SE3_sensor.copy()
    mount[0, 3] += 0.1
    sensors = (replace(RIG.sensors[0], ego_SE3_sensor=mount), *RIG.sensors[1:])
    return MemorySource(type(RIG)(sensors=sensors), list(source.messages()), drive_id=source.drive_id)


def a_sweep_less(source: MemorySource) -> MemorySource:
    def without() -> Iterator[AnyMessage]:
        sweeps = 0
        for message in source.messages():
            sweeps += isinstance(message, LidarSweep)
            if not isinstance(message, LidarSweep) or sweeps != 5:
                yield message

    return MemorySource(RIG, list(without()), drive_id=source.drive_id)


def shorter(source: MemorySource) -> MemorySource:
    return MemorySource(RIG, list(source.messages())[:-60], drive_id=source.drive_id)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_name, "the run had drive 'light'"),
        (other_rig, "the run had calibration"),
        (a_sweep_less, r"bundle \d+ at \d+ is made of other messages|went on behind message"),
        (shorter, r"other messages|went on behind message|not among the decisions"),
    ],
)
def test_another_drive_is_refused(change: Callable[[MemorySource], MemorySource], reason: str) -> None:
    source = drive(1.0)
    _, _, book = play_live(source, ServiceConfig(), seconds=0.0, rate=4.0)
    with pytest.raises(DecisionError, match=reason):
        decide_again(change(source), book)


def test_another_model_or_setting_is_refused() -> None:
    source = drive(0.5)
    _, _, book = play_live(source, ServiceConfig(), seconds=0.0, rate=4.0)
    with pytest.raises(DecisionError, match=r"sync.deadline_ms was 150.0, here it is 80.0"):
        book.settings(ServiceConfig(sync=SyncConfig(deadline_ms=80)))
    with pytest.raises(DecisionError, match="model slow '0000000000000000', here it is '1111111111111111'"):
        run_drive(
            source,
            SlowEngine(0.0, model_hash="1" * 16),
            ServiceConfig(),
            run_id="live",
            on_result=lambda _: None,
            options=ReplayOptions(),
            decisions=book,
        )


@pytest.mark.parametrize("records", [[], [DecisionRecord()]])
def test_a_recording_without_decisions_is_refused(records: list[DecisionRecord]) -> None:
    with pytest.raises(DecisionError, match="it holds no decisions"):
        DecisionBook.of("run.mcap", records)


class Stalling(MemorySource):
    """Reading it halts for a while."""

    def __init__(self, inner: MemorySource, stall: Callable[[], Any]) -> None:
        super().__init__(inner.rig, list(inner.messages()), drive_id=inner.drive_id)
        self._stall = stall

    def messages(self) -> Iterator[AnyMessage]:
        for i, message in enumerate(super().messages()):
            if i == 20:
                self._stall()
            yield message


class Enterable(Stalling):
    """... and can be entered anywhere."""

    def messages_from(self, arrival_ns: int) -> Iterator[AnyMessage]:
        yield from (message for message in MemorySource.messages(self) if message.arrival_ns >= arrival_ns)


@pytest.mark.parametrize("kind", [Stalling, Enterable])
def test_a_drive_that_is_read_too_slowly_does_not_fall_behind(kind: type[Stalling]) -> None:
    """Passed over and jumped over, or slowed down; and decided the same again, from a drive that is read in time."""
    config = ServiceConfig(live=LiveConfig(max_lag_ms=200))
    stalling = kind(drive(), lambda: time.sleep(1.2))
    live, results, book = play_live(stalling, config, seconds=0.0, rate=1.0)
    assert live.account.is_exact
    if kind is Enterable:
        assert live.jumped_s > 0
        assert live.messages < len(list(drive().messages()))
    else:
        assert live.slowed_s > 0
    again, same = decide_again(drive(), book)
    assert [said(result) for result in same] == [said(result) for result in results]
    assert again.account == live.account
