"""Several sessions on one model say what each says alone."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.config.schema import BatchingConfig, ModelChoice, ServiceConfig
from perception.core.errors import EngineError, ModelError
from perception.core.messages import CameraFrame
from perception.core.ports import Engine
from perception.core.results import PerceptionResult
from perception.core.stages import CameraRequest, FuseRequest
from perception.models.bench import surround_request
from perception.models.inference import Bundle, InferenceModel
from perception.pipeline.batching import BatchingEngine, BatchingStages
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from tests.results_alike import assert_same_results

CONFIG = ServiceConfig()


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return open_model(ModelChoice(score_threshold=0.0))


@pytest.fixture(scope="module")
def drives() -> list[MemorySource]:
    """Three short drives, one without a camera and a radar that the others have, one longer."""
    made = []
    for seed, duration_s in enumerate((0.4, 0.4, 0.6)):
        source = SyntheticSource(seed=seed, duration_s=duration_s)
        messages = [m for m in source.messages() if seed != 1 or m.sensor not in ("CAM_BACK", "RADAR_FRONT")]
        made.append(MemorySource(source.rig, messages, drive_id=f"drive-{seed}"))
    return made


def results_of(source: MemorySource, engine: Engine, config: ServiceConfig = CONFIG) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    run_drive(source, engine, config, run_id="r", on_result=results.append, options=ReplayOptions())
    return results


def together(
    stages: BatchingStages, drives: Sequence[MemorySource], config: ServiceConfig = CONFIG
) -> list[list[PerceptionResult]]:
    def play(source: MemorySource) -> list[PerceptionResult]:
        engine = stages.engine()
        try:
            return results_of(source, engine, config)
        finally:
            engine.close()

    with ThreadPoolExecutor(len(drives)) as pool:
        return list(pool.map(play, drives))


@pytest.mark.parametrize(
    "settings", [BatchingConfig(), BatchingConfig(max_images=1, max_bundles=1, max_queued=1, max_wait_ms=0)]
)
def test_sessions_that_share_a_model_say_what_each_says_alone(
    model: InferenceModel, drives: list[MemorySource], settings: BatchingConfig
) -> None:
    alone = [results_of(source, LocalEngine(model, threads=1)) for source in drives]
    stages = BatchingStages(model, settings, threads=1)
    try:
        shared = together(stages, drives)
    finally:
        stages.close()
    for source, ours, theirs in zip(drives, shared, alone, strict=True):
        assert len(ours) >= 3
        assert [result.sequence for result in ours] == list(range(len(ours)))
        assert {result.drive_id for result in ours} == {source.drive_id}
        assert_same_results(ours, theirs)
    if settings.max_images > 1:
        assert stages.mean_batch["camera"] > 1
    else:
        assert set(stages.mean_batch.values()) == {1.0}


def test_bundles_of_different_rigs_fuse_in_one_pass(model: InferenceModel) -> None:
    rng = np.random.default_rng(0)
    whole = replace(surround_request(), keep_dense=True)
    height, width = model.config.image.height_px, model.config.image.width_px
    images = [rng.integers(0, 256, (3, height, width), dtype=np.uint8) for _ in range(6)]
    cameras = model.encode_images(images)
    for image, features in zip(images, cameras, strict=True):
        torch.testing.assert_close(features, model.encode_image(image), atol=1e-4, rtol=0)
    points = [np.zeros((model.config.lidar.max_points, 5), np.float32) for _ in range(2)]
    counts = [np.array(count) for count in (5_000, 0)]
    points[0][:5_000, :3] = rng.uniform(-40, 40, (5_000, 3)) * (1, 1, 0.05)
    lidars = model.encode_packed_lidars(points, counts)
    torch.testing.assert_close(lidars[1], model.encode_packed_lidar(points[1], counts[1]), atol=1e-4, rtol=0)
    returns = [rng.uniform(-1, 1, (model.config.radar.max_points, 7)).astype(np.float32) for _ in range(2)]
    radars = model.encode_packed_radars(returns, [np.array(9), np.array(100)])
    torch.testing.assert_close(radars[0], model.encode_packed_radar(returns[0], np.array(9)), atol=1e-4, rtol=0)

    def part(cams: int, sweeps: int, has_radar: bool) -> Bundle:
        request = replace(
            whole,
            cameras=whole.cameras[:cams],
            lidars=("a", "b")[:sweeps],
            lidar_age_ns=(0, 20_000_000)[:sweeps],
            radar_age_ns=0 if has_radar else None,
        )
        radar = radars[1] if has_radar else None
        return Bundle(request=request, cameras=cameras[:cams], lidars=lidars[:sweeps], radar=radar)

    bundles = [part(6, 1, True), part(0, 2, False), part(1, 0, True), part(0, 0, False), part(3, 2, True)]
    for bundle, output in zip(bundles, model.fuse_bundles(bundles), strict=True):
        single = model.fuse(bundle.request, bundle.cameras, bundle.lidars, bundle.radar)
        for name, values in single.dense.items():
            np.testing.assert_allclose(output.dense[name], values, atol=1e-4)
        assert len(output.detections) == len(single.detections)
        np.testing.assert_allclose(output.path_hints.target_speed_mps, single.path_hints.target_speed_mps, atol=1e-3)


def test_what_breaks_in_a_batch_breaks_for_its_own_session_only(
    model: InferenceModel, drives: list[MemorySource]
) -> None:
    stages = BatchingStages(model, BatchingConfig(max_wait_ms=50), threads=1)

    class Forgets(BatchingEngine):
        def fuse(self, request: FuseRequest, features: Sequence[object]) -> Future:  # type: ignore[type-arg]
            return super().fuse(replace(request, cameras=request.cameras[:-1]), features)  # type: ignore[arg-type]

    def broken() -> type[Exception] | None:
        try:
            results_of(drives[0], Forgets(stages))
        except ModelError:
            return ModelError
        return None

    with ThreadPoolExecutor(2) as pool:
        hurt, fine = pool.submit(broken), pool.submit(together, stages, [drives[0]])
        assert hurt.result() is ModelError
        assert_same_results(fine.result()[0], results_of(drives[0], LocalEngine(model, threads=1)))
    stages.close()


def test_an_unreadable_image_is_a_failure_and_not_an_error(model: InferenceModel, drives: list[MemorySource]) -> None:
    messages = list(drives[0].messages())
    broken = [replace(m, data=m.data[:300]) if isinstance(m, CameraFrame) else m for m in messages]
    stages = BatchingStages(model, BatchingConfig(), threads=1)
    results = together(stages, [MemorySource(drives[0].rig, broken)])[0]
    stages.close()
    assert results
    assert results[0].provenance.dropped["unreadable"] >= 6  # later ones may be set aside without a try
    for result in results:
        assert not any(sensor.present for sensor in result.sensors if sensor.name.startswith("CAM_"))
        assert any(sensor.present for sensor in result.sensors)


def test_a_session_is_held_up_at_its_limit_and_let_go_in_the_end(
    model: InferenceModel, drives: list[MemorySource], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def held(images: Sequence[object]) -> None:
        begun.set()
        goes_on.wait(60)
        raise RuntimeError("enough")

    monkeypatch.setattr(model, "encode_images", held)
    stages = BatchingStages(model, BatchingConfig(max_queued=3), threads=1)
    engine = stages.engine()
    frame = next(m for m in drives[0].messages() if isinstance(m, CameraFrame))
    camera = drives[0].rig[frame.sensor].camera
    assert camera is not None
    request = CameraRequest(key="k", frame=frame, camera=camera)
    sent, error = list[int](), list[BaseException]()

    def feed() -> None:
        for number in range(5):
            try:
                engine.encode(request)
            except EngineError as problem:
                error.append(problem)
                return
            sent.append(number)

    engine.encode(request)
    assert begun.wait(60)  # that one is a batch of its own, whatever comes later
    feeder = threading.Thread(target=feed)
    feeder.start()
    wait_until(lambda: len(sent) == 3)  # these wait, and the fourth is not taken
    feeder.join(0.2)
    assert feeder.is_alive()
    assert len(sent) == 3
    closing = threading.Thread(target=stages.close)
    closing.start()
    feeder.join(60)
    assert "closed" in str(error[0])
    goes_on.set()
    closing.join(60)
    with pytest.raises(EngineError, match="closed"):
        stages.engine()


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to that within a minute")
