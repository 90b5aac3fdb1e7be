"""What live benchmarks are made of: the endless drive, the plain loop, the wire format, the measure of memory."""

from itertools import islice, pairwise

import numpy as np
import pytest

from perception.config.schema import ModelChoice, ServiceConfig, SyncConfig
from perception.core.errors import DriveError
from perception.core.geometry import invert
from perception.core.messages import AnyMessage, EgoState, LidarSweep
from perception.core.results import PerceptionResult
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import Stages, open_model
from perception.queues.codec import decode
from perception.runtime.bench_drive import in_memory_drive
from perception.runtime.bench_live_bare import run_bare
from perception.runtime.bench_live_drive import EndlessDrive, plan_frames
from perception.runtime.bench_live_load import memory_growth
from perception.runtime.bench_live_watch import DeferredEngine
from perception.runtime.bench_live_wire import pack, unpack
from perception.sources.memory import MemorySource


def endless(*, duration_s: float = 0.55, begin_s: float = 0.0) -> EndlessDrive:
    source = in_memory_drive(duration_s=duration_s)
    return EndlessDrive(source.rig, source.messages(), begin_s=begin_s)


@pytest.mark.parametrize("begin_s", [0.0, 0.13])
def test_an_endless_drive_has_no_seam(begin_s: float) -> None:
    drive = endless(begin_s=begin_s)
    messages = list(islice(drive.messages(), 400))
    assert all(one.arrival_ns <= other.arrival_ns for one, other in pairwise(messages))
    sweeps = [one.capture_ns for one in messages if isinstance(one, LidarSweep)]
    gaps = {other - one for one, other in pairwise(sweeps)}
    assert max(gaps) - min(gaps) < 2_000_000
    places = [one.world_SE3_ego for one in messages if isinstance(one, EgoState) and one.world_SE3_ego is not None]
    steps = [np.linalg.norm((invert(one) @ other)[:3, 3]) for one, other in pairwise(places)]
    assert max(steps) < 1.0, "the ego jumps"
    bundles = [frame.bundle for frame in plan_frames(drive.rig, messages, SyncConfig())]
    assert not any(bundle.misses for bundle in bundles[2:-1])


def test_a_drive_that_cannot_be_repeated_is_refused() -> None:
    source = in_memory_drive(duration_s=0.05)
    with pytest.raises(DriveError, match="a drive to repeat needs two"):
        EndlessDrive(source.rig, source.messages())


def test_messages_come_back_from_the_wire() -> None:
    kinds = set()
    for message in islice(endless().messages(), 60):
        header, payload = pack(message)
        again = unpack(header, payload)
        assert type(again) is type(message)
        kinds.add(type(message))
        for name in type(message).__dataclass_fields__:
            _assert_same(getattr(message, name), getattr(again, name))
    assert len(kinds) >= 4


def test_the_plain_loop_and_deferred_encoding_find_what_the_service_finds() -> None:
    drive = endless()
    messages = drive.part(0.7)
    model = open_model(ModelChoice())
    plan = plan_frames(drive.rig, messages, SyncConfig())
    plain = [decode(one.payload) for one in run_bare(drive.rig, messages, plan, Stages(model), rate=float("inf"))]
    engine = LocalEngine(model, threads=1)
    served = _served(drive, messages, engine)
    deferred = _served(drive, messages, DeferredEngine(engine))
    assert len(plain) == len(plan) >= 5
    for one, two, three in zip(plain, served, deferred, strict=False):
        assert isinstance(one, PerceptionResult)
        assert one.reference_ns == two.reference_ns == three.reference_ns
        np.testing.assert_allclose(one.path_hints.waypoints_m, two.path_hints.waypoints_m, atol=1e-3)
        np.testing.assert_allclose(two.path_hints.waypoints_m, three.path_hints.waypoints_m, atol=1e-4)
        np.testing.assert_allclose(two.detections.score, three.detections.score, atol=1e-4)
        assert len(one.detections) == len(two.detections)


def test_growth_of_memory_is_the_slope() -> None:
    told = memory_growth([(float(i), 100.0 + 0.1 * i + (i % 2)) for i in range(101)])
    assert told["growth_percent"] == pytest.approx(10.0, abs=0.5)
    assert memory_growth([(float(i), 100.0) for i in range(9)])["growth_percent"] == 0.0
    assert memory_growth([]) == {}


def _served(
    drive: EndlessDrive, messages: list[AnyMessage], engine: LocalEngine | DeferredEngine
) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    run_drive(
        MemorySource(drive.rig, messages), engine, ServiceConfig(), run_id="test",
        on_result=results.append, options=ReplayOptions(),
    )  # fmt: skip
    return results


def _assert_same(one: object, other: object) -> None:
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other
