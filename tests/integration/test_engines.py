"""The three placements say the same, and an engine's failures reach the caller as what they are."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.config.schema import ModelChoice, ServiceConfig, SupervisionConfig
from perception.core.errors import EngineError, ModelError, PayloadError
from perception.core.forwarding import ForwardingEngine
from perception.core.messages import CameraFrame
from perception.core.ports import Engine, FeatureHandle, Source
from perception.core.results import PerceptionResult
from perception.core.stages import FuseRequest, FusionOutput
from perception.models.checkpoint import save_checkpoint
from perception.models.network import build_network
from perception.models.presets import preset
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.ray_engine import Placement, ray_engine
from perception.sources.memory import MemorySource
from perception.sources.open import open_drive
from perception.sources.synthetic import SyntheticSource

# Everything that the untrained network says is published, so that there is something to compare.
CHOICE = ModelChoice(score_threshold=0.0)
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> ModelChoice:
    """A network whose cells differ clearly. Untrained, thousands of peaks score alike, and the last bit of a sum, which
    depends on the number of threads, would say which of them become queries."""
    network = build_network(preset("tiny"))
    with torch.no_grad():
        network.dense_head.heat.weight *= 40
    path = tmp_path_factory.mktemp("model") / "decided.safetensors"
    save_checkpoint(path, network)
    return ModelChoice(name=str(path), score_threshold=0.0)


class KeepsDense(ForwardingEngine):
    """An engine that asks for dense outputs and keeps what came."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.futures: list[Future[FusionOutput]] = []

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        self.futures.append(self._engine.fuse(replace(request, keep_dense=True), features))
        return self.futures[-1]


def outputs(source: Source, engine: Engine) -> tuple[list[FusionOutput], list[PerceptionResult]]:
    keeping, results = KeepsDense(engine), list[PerceptionResult]()
    run_drive(source, keeping, ServiceConfig(), run_id="r", on_result=results.append, options=ReplayOptions())
    return [future.result() for future in keeping.futures], results


def agree(ours: FusionOutput, theirs: FusionOutput) -> None:
    """Dense outputs to 1e-4, boxes matched one to one."""
    assert ours.dense.keys() == theirs.dense.keys()
    assert ours.dense
    for name, values in ours.dense.items():
        np.testing.assert_allclose(values, theirs.dense[name], atol=1e-4, err_msg=name)
    assert len(ours.detections) == len(theirs.detections) > 0
    unmatched = list(range(len(theirs.detections)))
    for i in range(len(ours.detections)):
        distance = np.linalg.norm(theirs.detections.center_m[unmatched] - ours.detections.center_m[i], axis=1)
        distance += 1e3 * (theirs.detections.class_index[unmatched] != ours.detections.class_index[i])
        distance += np.abs(theirs.detections.score[unmatched] - ours.detections.score[i])
        assert distance.min() < 1e-2
        unmatched.pop(int(distance.argmin()))
    np.testing.assert_allclose(ours.path_hints.waypoints_m, theirs.path_hints.waypoints_m, atol=1e-2)


@pytest.mark.parametrize("placement", ["colocated", "split"])
@pytest.mark.parametrize("drive", ["synthetic", "nuscenes-mini-1kf", "pandaset-002"])
def test_placements_agree_with_local(
    ray: None, request: pytest.FixtureRequest, decided: ModelChoice, drive: str, placement: Placement
) -> None:
    if drive == "synthetic":
        source: Source = SyntheticSource(duration_s=0.5)
    else:
        source = open_drive(str(request.getfixturevalue("drive_data") / drive))
    local, local_results = outputs(source, LocalEngine(open_model(decided), threads=2))
    engine = ray_engine(decided, placement=placement, threads=1)
    try:
        there, there_results = outputs(source, engine)
    finally:
        engine.close()
    assert len(local) == len(there) > 0
    for ours, theirs in zip(local, there, strict=True):
        agree(ours, theirs)
    for one, other in zip(local_results, there_results, strict=True):
        assert one.provenance.model_hash == other.provenance.model_hash
        assert one.sensors == other.sensors
        assert other.provenance.placement == placement


def test_a_killed_actor_that_must_not_be_replaced_is_an_engine_error(ray: None) -> None:
    engine = ray_engine(CHOICE, placement="colocated", threads=1, supervision=SupervisionConfig(max_restarts=0))
    os.kill(engine.supervision().pids["all"], signal.SIGKILL)
    with pytest.raises(EngineError, match=r"restarted 0 times .*an engine process died"):
        outputs(SyntheticSource(duration_s=0.3), engine)
    engine.close()


@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_an_actors_own_error_arrives_as_itself_with_its_traceback(ray: None, placement: Placement) -> None:
    engine = ray_engine(CHOICE, placement=placement, threads=1)
    made = SyntheticSource(duration_s=0.3)

    class Breaks(KeepsDense):
        def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
            return super().fuse(replace(request, cameras=request.cameras[:-1]), features)

    try:
        with pytest.raises(ModelError, match="features") as caught:
            run_drive(
                made, Breaks(engine), ServiceConfig(), run_id="r", on_result=lambda _: None, options=ReplayOptions()
            )
    finally:
        engine.close()
    assert "In the actor:" in "".join(caught.value.__notes__)
    assert "inference.py" in "".join(caught.value.__notes__)


def test_an_unknown_model_is_named(ray: None) -> None:
    with pytest.raises(ModelError, match="enormous"):
        ray_engine(ModelChoice(name="enormous"), placement="colocated", threads=1)


@pytest.mark.parametrize("placement", ["local", "colocated", "split"])
def test_an_unreadable_image_is_counted_and_its_camera_missing(ray: None, placement: str, tmp_path: Path) -> None:
    made = SyntheticSource(duration_s=0.6)
    messages = list(made.messages())
    i, front = next((i, m) for i, m in enumerate(messages) if isinstance(m, CameraFrame) and m.sensor == "CAM_FRONT")
    messages[i] = replace(front, data=front.data[:400])
    source = MemorySource(made.rig, messages)
    engine: Engine
    if placement == "local":
        engine = LocalEngine(open_model(CHOICE), threads=1)
    else:
        engine = ray_engine(CHOICE, placement="split" if placement == "split" else "colocated", threads=1)
    try:
        _, results = outputs(source, engine)
        hurt = [r for r in results if not next(s for s in r.sensors if s.name == "CAM_FRONT").valid]
        assert hurt
        for result in hurt:
            status = next(s for s in result.sensors if s.name == "CAM_FRONT")
            assert (status.present, status.age_ns) == (False, None)
            assert result.provenance.dropped["unreadable"] >= 1
        assert any(next(s for s in r.sensors if s.name == "CAM_FRONT").present for r in results)
        with pytest.raises(PayloadError, match="CAM_FRONT"):
            run_drive(
                source,
                engine,
                ServiceConfig(),
                run_id="r",
                on_result=lambda _: None,
                options=ReplayOptions(strict=True),
            )
    finally:
        engine.close()
