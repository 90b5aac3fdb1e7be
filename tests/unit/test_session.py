"""What a session makes of messages: what it encodes, fuses, counts and reports."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pytest

from perception.config.schema import ServiceConfig, SyncConfig
from perception.core.bundle import DropCause
from perception.core.clock import ManualClock
from perception.core.errors import PayloadError
from perception.core.geometry import invert
from perception.core.messages import AnyMessage, CameraFrame, EgoState, RouteCommand, Unreadable
from perception.core.motion import MotionSource
from perception.core.ports import FeatureHandle
from perception.core.results import Detections, PathHints, PerceptionResult
from perception.core.stages import CameraRequest, EncodeRequest, FuseRequest, FusionOutput, LidarRequest, ModelInfo
from perception.pipeline.frames import Frame
from perception.pipeline.ladder import FULL
from perception.pipeline.session import Session
from perception.sources.synthetic import SyntheticSource


@dataclass(frozen=True)
class Handle:
    key: str


class BookkeepingEngine:
    """Encodes nothing, but knows what was asked of it and what is still held."""

    placement = "books"
    model = ModelInfo(name="books", hash="0" * 16, trained=False)

    def __init__(self, failures: dict[str, str] | None = None) -> None:
        self.encoded: list[EncodeRequest] = []
        self.fused: list[tuple[FuseRequest, list[str]]] = []
        self.held: set[str] = set()
        self._failures = failures or {}

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        assert request.key not in self.held, f"{request.key} encoded twice"
        self.encoded.append(request)
        self.held.add(request.key)
        return Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        keys = [handle.key for handle in features]
        assert set(keys) <= self.held, "fused features that were released"
        self.fused.append((request, keys))
        hints = PathHints(
            confidence=np.ones(1, dtype=np.float32),
            waypoints_m=np.zeros((1, 6, 2), dtype=np.float32),
            times_s=np.linspace(0.5, 3.0, 6, dtype=np.float32),
            target_speed_mps=0.0,
        )
        done: Future[FusionOutput] = Future()
        done.set_result(
            FusionOutput(
                detections=Detections.empty(), path_hints=hints, failures=self._failures, stage_latency_ns={}, dense={}
            )
        )
        return done

    def release(self, features: Sequence[FeatureHandle]) -> None:
        self.held -= {handle.key for handle in features}

    def close(self) -> None: ...


def make_session(source: SyntheticSource, engine: BookkeepingEngine, *, strict: bool = False) -> Session:
    return Session(
        drive_id=source.drive_id,
        run_id="run",
        rig=source.rig,
        engine=engine,
        config=ServiceConfig(sync=SyncConfig()),
        clock=ManualClock(7),
        strict=strict,
    )


def play(session: Session, messages: Sequence[AnyMessage]) -> list[PerceptionResult]:
    frames: list[Frame] = []
    for message in messages:
        frames += session.push(message)
    frames += session.finish()
    return completed(session, frames)


def completed(session: Session, frames: Sequence[Frame]) -> list[PerceptionResult]:
    results = [session.complete(frame, 1.0) for frame in frames]
    assert None not in results
    return [result for result in results if result is not None]


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(duration_s=1.0)


@pytest.fixture(scope="module")
def messages(source: SyntheticSource) -> list[AnyMessage]:
    return list(source.messages())


def test_every_sweep_gives_one_result_in_order(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    results = play(make_session(source, engine), messages)
    sweeps = [message.capture_ns for message in messages if message.sensor == "LIDAR_TOP"]
    assert [result.reference_ns for result in results] == sweeps
    assert [result.sequence for result in results] == list(range(len(sweeps)))
    assert all(result.published_ns == 7 for result in results)
    assert {result.provenance.ego_motion for result in results} == {MotionSource.POSES}


def test_features_are_encoded_once_and_released(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    play(make_session(source, engine), messages)
    images = Counter(id(request.frame) for request in engine.encoded if isinstance(request, CameraRequest))
    assert set(images.values()) == {1}
    assert engine.held == set()


def test_images_and_reference_sweeps_are_encoded_on_arrival(
    source: SyntheticSource, messages: list[AnyMessage]
) -> None:
    engine = BookkeepingEngine()
    session = make_session(source, engine)
    early = 0
    for message in messages:
        before, fused = len(engine.encoded), len(engine.fused)
        session.push(message)
        new = engine.encoded[before:]
        if len(engine.fused) == fused and new:
            assert all(isinstance(request, CameraRequest | LidarRequest) for request in new)
            early += 1
    assert early > len(engine.fused)


def test_camera_views_include_the_motion_since_capture(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    results = play(make_session(source, engine), messages)
    moved = 0
    for (request, _), result in zip(engine.fused, results, strict=True):
        for view in request.cameras:
            shift = view.reference_SE3_camera[:3, 3] - source.rig[view.sensor].ego_SE3_sensor[:3, 3]
            expected = -request.speed_mps * view.age_ns / 1e9
            assert shift[0] == pytest.approx(expected, abs=0.05)
            moved += abs(view.age_ns) > 10_000_000
        present = {status.name for status in result.sensors if status.present}
        assert {view.sensor for view in request.cameras} <= present
    assert moved


def test_a_dead_camera_is_missing_but_results_go_on(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    alive = [message for message in messages if message.sensor != "CAM_BACK"]
    results = play(make_session(source, BookkeepingEngine()), alive)
    assert len(results) == sum(message.sensor == "LIDAR_TOP" for message in messages)
    for result in results:
        status = next(status for status in result.sensors if status.name == "CAM_BACK")
        assert (status.present, status.alive, status.age_ns, status.frequency_hz) == (False, False, None, 0.0)
        assert all(other.present for other in result.sensors if other.name != "CAM_BACK")


def test_an_unreadable_message_is_counted_once_and_reported(
    source: SyntheticSource, messages: list[AnyMessage]
) -> None:
    broken = list(messages)
    i = next(i for i, message in enumerate(messages) if message.sensor == "CAM_FRONT" and i > 100)
    lost = messages[i]
    broken[i] = Unreadable(
        sensor=lost.sensor, capture_ns=lost.capture_ns, arrival_ns=lost.arrival_ns, error="truncated"
    )
    results = play(make_session(source, BookkeepingEngine()), broken)
    assert sum(result.provenance.dropped.get("unreadable", 0) for result in results) == 1
    with pytest.raises(PayloadError, match=r"CAM_FRONT.*truncated"):
        play(make_session(source, BookkeepingEngine(), strict=True), broken)


def test_a_failed_encoding_takes_the_sensor_out_of_its_result(
    source: SyntheticSource, messages: list[AnyMessage]
) -> None:
    results = play(make_session(source, BookkeepingEngine({"CAM_FRONT": "truncated JPEG"})), messages)
    for result in results:
        status = next(status for status in result.sensors if status.name == "CAM_FRONT")
        assert (status.present, status.valid, status.age_ns) == (False, False, None)
        assert result.provenance.dropped["unreadable"] == 1


def test_a_busy_live_session_drops_and_counts(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    session = make_session(source, engine)
    frames: list[Frame] = []
    for i, message in enumerate(messages):
        is_busy = i < len(messages) // 2
        for draft in session.admit(message, None if is_busy else FULL):
            if is_busy:
                session.discard(draft, DropCause.OVERLOAD)
            else:
                frames.append(session.dispatch(draft))
    frames += session.finish()
    results = completed(session, frames)
    sweeps = sum(message.sensor == "LIDAR_TOP" for message in messages)
    dropped = sum(result.provenance.dropped.get("overload", 0) for result in results)
    assert dropped > 0
    assert len(results) + dropped == sweeps
    assert [result.sequence for result in results] == list(range(len(results)))
    assert engine.held == set()


def test_the_route_reaches_fusion(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    play(make_session(source, engine), messages)
    said = [message for message in messages if isinstance(message, RouteCommand)]
    assert said
    assert engine.fused[-1][0].command is said[-1].command
    assert engine.fused[-1][0].speed_limit_mps == said[-1].speed_limit_mps


def test_the_routes_target_is_moved_to_the_reference(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine = BookkeepingEngine()
    poses = {message.capture_ns: message.world_SE3_ego for message in messages if isinstance(message, EgoState)}
    there = np.array([300.0, 40.0, 0.0, 1.0])
    told = []
    for message in messages:
        if isinstance(message, RouteCommand):
            nearest = poses[min(poses, key=lambda time_ns: abs(time_ns - message.capture_ns))]
            assert nearest is not None
            target = (invert(nearest) @ there)[:2]
            message = replace(message, target_m=target)
        told.append(message)
    play(make_session(source, engine), told)
    moved = {one.reference_ns: one.route_target_m for one, _ in engine.fused if one.route_target_m is not None}
    assert moved
    for reference_ns, found in moved.items():
        nearest = poses[min(poses, key=lambda time_ns: abs(time_ns - reference_ns))]
        assert nearest is not None
        np.testing.assert_allclose(found, (invert(nearest) @ there)[:2], atol=1.0)


def test_a_target_that_is_not_a_number_is_none(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    engine, nowhere = BookkeepingEngine(), np.array([np.nan, 3.0])
    told = [replace(one, target_m=nowhere) if isinstance(one, RouteCommand) else one for one in messages]
    play(make_session(source, engine), told)
    assert engine.fused
    assert all(request.route_target_m is None for request, _ in engine.fused)


def test_the_same_messages_give_the_same_requests(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    first, second = BookkeepingEngine(), BookkeepingEngine()
    play(make_session(source, first), messages)
    play(make_session(source, second), messages)
    assert [keys for _, keys in first.fused] == [keys for _, keys in second.fused]


def test_a_frames_own_calibration_wins(source: SyntheticSource, messages: list[AnyMessage]) -> None:
    camera = source.rig["CAM_FRONT"].camera
    assert camera is not None
    other = replace(camera, width_px=camera.width_px + 8)
    changed = [
        replace(message, calibration=other)
        if isinstance(message, CameraFrame) and message.sensor == "CAM_FRONT"
        else message
        for message in messages
    ]
    engine = BookkeepingEngine()
    play(make_session(source, engine), changed)
    widths = {
        view.camera.width_px for request, _ in engine.fused for view in request.cameras if view.sensor == "CAM_FRONT"
    }
    assert widths == {camera.width_px + 8}
