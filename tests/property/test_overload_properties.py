"""Overload in simulated time: nothing is lost without a cause, nothing waits for long, whatever the load."""

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.config.schema import DeadlineConfig, LadderConfig, LiveConfig, ServiceConfig
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.stages import FuseRequest
from perception.pipeline.overload import OverloadRun, light_messages, overload_table, simulate_live
from perception.sources.synthetic_rig import synthetic_rig

Handler = Literal["publish_late", "publish_degraded", "skip"]
MS = 1_000_000
FULL_RIG = synthetic_rig()
RIG = SensorRig(
    sensors=(
        *FULL_RIG.of(Modality.CAMERA)[:3],
        *FULL_RIG.of(Modality.LIDAR)[:1],
        *FULL_RIG.of(Modality.RADAR)[:1],
    )
)
LIDAR: Sensor = RIG.of(Modality.LIDAR)[0]


@st.composite
def configurations(draw: st.DrawFn) -> ServiceConfig:
    handler: Handler = draw(st.sampled_from(["publish_late", "publish_degraded", "skip"]))
    return ServiceConfig(
        deadline=DeadlineConfig(budget_ms=draw(st.sampled_from([80.0, 200.0, 500.0])), handler=handler),
        live=LiveConfig(max_in_flight=draw(st.integers(1, 3))),
        ladder=LadderConfig(
            cameras=draw(st.sampled_from([(), (2,), (2, 0)])),
            small_model=draw(st.sampled_from([None, "small"])),
            skip=draw(st.sampled_from([(), (2,), (2, 4)])),
            slow_frames=draw(st.integers(1, 3)),
            calm_frames=draw(st.integers(1, 6)),
        ),
    )


def run_at_random(config: ServiceConfig, seed: int, mean_ms: float) -> tuple[OverloadRun, int]:
    """A run of 1 s whose frames take random times, and the longest of them."""
    rng = np.random.default_rng(seed)
    longest_ns = 0

    def takes(request: FuseRequest, is_small: bool) -> int:
        nonlocal longest_ns
        duration_ns = round(float(rng.exponential(mean_ms)) * MS)
        longest_ns = max(longest_ns, duration_ns)
        return duration_ns

    return simulate_live(RIG, light_messages(RIG, 1.0), config, takes), longest_ns


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(config=configurations(), seed=st.integers(0, 2**32), mean_ms=st.sampled_from([5.0, 60.0, 300.0]))
def test_every_message_and_bundle_is_accounted_for_exactly(config: ServiceConfig, seed: int, mean_ms: float) -> None:
    run, longest_ns = run_at_random(config, seed, mean_ms)
    account = run.account
    assert account.is_exact
    came = list(light_messages(RIG, 1.0))
    assert sum(account.messages.values()) == len(came)
    assert account.messages["ego"] == account.used["ego"]
    assert account.bundles == sum(message.sensor == LIDAR.name for message in came)
    assert account.published == len(run.results)
    assert account.degraded == sum(result.degraded for result in run.results)
    told = sum((result.provenance.dropped.get(cause, 0) for result in run.results for cause in ("overload",)), 0)
    assert told <= account.bundles_dropped.get("overload", 0)
    # Newest wins: one frame waits while `max_in_flight` are under way, so nothing is older than they take.
    assert max(run.latencies_ns, default=0) <= (config.live.max_in_flight + 1) * longest_ns
    assert [result.sequence for result in run.results] == list(range(len(run.results)))
    for before, after in pairwise(run.results):
        assert before.reference_ns < after.reference_ns
        assert before.published_drive_ns <= after.published_drive_ns
    buffers = (32 + 8) * len(RIG.sensors)
    assert run.peak_held <= buffers
    assert run.peak_unsettled <= buffers + (config.live.max_in_flight + 1) * len(RIG.sensors)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(config=configurations(), seed=st.integers(0, 2**32), mean_ms=st.sampled_from([60.0, 300.0]))
def test_deadlines_are_handled_as_configured(config: ServiceConfig, seed: int, mean_ms: float) -> None:
    run, _ = run_at_random(config, seed, mean_ms)
    budget_ns = round(config.deadline.budget_ms * MS)
    for result in run.results:
        slack_ns = result.provenance.publication_slack_ns
        assert slack_ns == result.reference_ns + budget_ns - result.published_drive_ns
        if config.deadline.handler == "skip":
            assert slack_ns >= 0
        if config.deadline.handler == "publish_late":
            assert not result.degraded
        if result.degraded:
            assert slack_ns <= 0, "nothing is replaced before its time"
            assert not any(status.present for status in result.sensors)
    if config.deadline.handler != "skip":
        assert "deadline" not in run.account.bundles_dropped


def test_the_same_load_gives_the_same_run() -> None:
    config = ServiceConfig(ladder=LadderConfig(cameras=(1,), skip=(2,)))
    first, _ = run_at_random(config, 5, 90.0)
    second, _ = run_at_random(config, 5, 90.0)
    assert first.to_dict() == second.to_dict()


@pytest.fixture(scope="module")
def table() -> dict[float, OverloadRun]:
    return overload_table(RIG, ServiceConfig(), duration_s=4.0)


def test_latency_stays_bounded_at_any_load(table: dict[float, OverloadRun]) -> None:
    period_ns = LIDAR.period_ns
    for load, run in table.items():
        assert run.account.is_exact
        half = len(run.latencies_ns) // 2
        growth_ns = max(run.latencies_ns[half:]) - max(run.latencies_ns[:half])
        assert growth_ns <= load * period_ns, "lag grows"
    assert not table[0.5].account.bundles_dropped
    for load in (2.0, 4.0):
        bundles = table[load].account.bundles
        assert table[load].account.published == pytest.approx(bundles / load, abs=4)


def test_the_ladder_buys_frames_under_overload() -> None:
    plain = overload_table(RIG, ServiceConfig(), loads=(2.0,), duration_s=4.0)[2.0]
    ladder = LadderConfig(cameras=(2, 1), small_model="small")
    config = ServiceConfig(ladder=ladder, deadline=DeadlineConfig(budget_ms=250.0))
    helped = overload_table(RIG, config, loads=(2.0,), duration_s=4.0)[2.0]
    assert helped.account.published > plain.account.published * 1.3
    changes = [result.provenance.ladder_change for result in helped.results if result.provenance.ladder_change]
    levels = [result.provenance.ladder_level for result in helped.results]
    assert len(changes) == sum(before != after for before, after in pairwise([0, *levels]))
    assert helped.account.dropped_by_cause()["left_out"] > 0
