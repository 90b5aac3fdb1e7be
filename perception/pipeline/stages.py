"""The model's stages with decoding and motion compensation in front of them; every engine runs these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic_ns

import torch

from perception.config.schema import ModelChoice
from perception.core.errors import PayloadError
from perception.core.stages import (
    CameraRequest,
    EncodeRequest,
    FuseRequest,
    FusionOutput,
    LidarRequest,
    ModelInfo,
    RadarRequest,
    StageSpan,
)
from perception.models.checkpoint import load_model
from perception.models.inference import InferenceModel
from perception.pipeline.preprocess import preprocess_camera, preprocess_lidar, preprocess_radar


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """Features of one request, fit to cross processes. features is None where `error` says why there are none.

    stage: `camera`, `lidar` or `radar`. sensors: whose messages went in. started_ns, finished_ns: monotonic.
    """

    stage: str
    sensors: tuple[str, ...]
    features: torch.Tensor | None
    error: str | None
    started_ns: int
    finished_ns: int


def open_model(choice: ModelChoice) -> InferenceModel:
    """The chosen model with the chosen thresholds. Raises ModelError where it is unknown or unfit."""
    model = load_model(choice.name)
    update = choice.model_dump(include={"score_threshold", "max_detections"}, exclude_none=True)
    model.config = model.config.model_copy(update=update)
    return model


class Stages:
    """Encodes and fuses with one model, in the calling thread."""

    def __init__(self, model: InferenceModel) -> None:
        self._model = model

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def encode(self, request: EncodeRequest) -> Encoded:
        """Encode one request; a payload that cannot be decoded gives an `Encoded` with its error."""
        started_ns = monotonic_ns()
        stage, sensors = _describe(request)
        features, error = None, None
        try:
            features = self._encode(request)
        except PayloadError as problem:
            error = str(problem)
        return Encoded(
            stage=stage,
            sensors=sensors,
            features=features,
            error=error,
            started_ns=started_ns,
            finished_ns=monotonic_ns(),
        )

    def fuse(self, request: FuseRequest, encoded: Sequence[Encoded]) -> FusionOutput:
        """Fuse what could be encoded; sensors whose encoding failed are left out and named in `failures`."""
        started_ns = monotonic_ns()
        views = len(request.cameras)
        cameras, others = list(encoded[:views]), list(encoded[views:])
        lidars, radars = others[: len(request.lidars)], others[len(request.lidars) :]
        seeing = [i for i, one in enumerate(cameras) if one.features is not None]
        sweeping = [i for i, one in enumerate(lidars) if one.features is not None]
        heard = [one.features for one in radars if one.features is not None]
        output = self._model.fuse(
            replace(
                request,
                cameras=tuple(request.cameras[i] for i in seeing),
                lidars=tuple(request.lidars[i] for i in sweeping),
                lidar_age_ns=tuple(request.lidar_age_ns[i] for i in sweeping),
                radar_age_ns=request.radar_age_ns if heard else None,
            ),
            [_features(cameras[i]) for i in seeing],
            [_features(lidars[i]) for i in sweeping],
            heard[0] if heard else None,
        )
        finished_ns = monotonic_ns()
        latency = _stage_latency(encoded, request.received_ns, fusion_ns=finished_ns - started_ns)
        failures = {sensor: one.error for one in encoded if one.error is not None for sensor in one.sensors}
        return replace(
            output,
            failures=failures,
            stage_latency_ns=latency,
            spans=_spans(
                encoded, StageSpan(stage="fusion", sensors=(), started_ns=started_ns, finished_ns=finished_ns)
            ),
        )

    def _encode(self, request: EncodeRequest) -> torch.Tensor:
        config = self._model.config
        if isinstance(request, CameraRequest):
            return self._model.encode_image(preprocess_camera(request, config))
        if isinstance(request, LidarRequest):
            sweep = preprocess_lidar(request, config)
            return self._model.encode_packed_lidar(sweep.points, sweep.count)
        returns = preprocess_radar(request, config)
        return self._model.encode_packed_radar(returns.points, returns.count)


def _describe(request: EncodeRequest) -> tuple[str, tuple[str, ...]]:
    if isinstance(request, CameraRequest):
        return "camera", (request.frame.sensor,)
    if isinstance(request, LidarRequest):
        return "lidar", (request.sweep.sensor,)
    assert isinstance(request, RadarRequest)
    return "radar", tuple(scan.sensor for scan in request.scans)


def _stage_latency(encoded: Sequence[Encoded], received_ns: int, *, fusion_ns: int) -> dict[str, int]:
    """Wall time by stage, and how much of it fell after the frame's last message had come in."""
    latency = {"fusion": fusion_ns}
    after_ns = fusion_ns
    for one in encoded:
        latency[one.stage] = latency.get(one.stage, 0) + one.finished_ns - one.started_ns
        after_ns += max(0, one.finished_ns - max(one.started_ns, received_ns))
    latency["model_since_last_message"] = after_ns
    return latency


def _spans(encoded: Sequence[Encoded], fusion: StageSpan) -> tuple[StageSpan, ...]:
    encodings = [
        StageSpan(stage=one.stage, sensors=one.sensors, started_ns=one.started_ns, finished_ns=one.finished_ns)
        for one in encoded
    ]
    return (*encodings, fusion)


def _features(encoded: Encoded) -> torch.Tensor:
    assert encoded.features is not None
    return encoded.features
