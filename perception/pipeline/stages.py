"""The model's stages with decoding and motion compensation in front of them; every engine runs these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic_ns
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception.config.schema import ModelChoice, ModelConfig
from perception.core.errors import PayloadError
from perception.core.stages import (
    CameraRequest,
    EncodeRequest,
    FuseRequest,
    FusionOutput,
    LidarRequest,
    ModelInfo,
    StageSpan,
)
from perception.models.checkpoint import load_model
from perception.models.inference import Bundle, InferenceModel
from perception.pipeline.device_stages import DeviceStages
from perception.pipeline.encoded import Encoded as Encoded
from perception.pipeline.encoded import describe
from perception.pipeline.preprocess import preprocess_camera, preprocess_lidar, preprocess_radar


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """One request decoded and packed, fit to cross processes: what an encoder still needs is the network.

    stage, sensors, started_ns: as in `Encoded`. arrays: the image (3, H, W), or points (P, F) and their count ();
    empty where `error` says why there are none.
    """

    stage: str
    sensors: tuple[str, ...]
    arrays: tuple[NDArray[np.generic], ...]
    error: str | None
    started_ns: int


def open_model(choice: ModelChoice) -> InferenceModel:
    """The chosen model with the chosen thresholds. Raises ModelError where it is unknown or unfit."""
    model = load_model(choice.name, choice=choice)
    update = choice.model_dump(include={"score_threshold", "max_detections"}, exclude_none=True)
    model.config = model.config.model_copy(update=update)
    return model


class Stages:
    """Encodes and fuses with one model, in the calling thread."""

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        self._device = None if model.front is None else DeviceStages(model.front, model.config)

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def encode(self, request: EncodeRequest) -> Encoded:
        """Encode one request; a payload that cannot be decoded gives an `Encoded` with its error.

        On a GPU payloads are decoded on threads and all else is done there: it may be under way when this returns.
        """
        if self._device is not None:
            return self._device.encode(request)
        prepared = prepare(request, self._model.config)
        return encoded_from(prepared, None if prepared.error else encode_prepared(self._model, [prepared])[0])

    def fuse(self, request: FuseRequest, encoded: Sequence[Encoded]) -> FusionOutput:
        """Fuse what could be encoded; sensors whose encoding failed are left out and named in `failures`."""
        started_ns = monotonic_ns()
        encoded = [one.settled() for one in encoded]
        bundle = bundle_of(request, encoded)
        output = self._model.fuse(bundle.request, bundle.cameras, bundle.lidars, bundle.radar)
        return with_account(output, request, encoded, fusion_span(started_ns))


def not_encoded(request: EncodeRequest, error: str) -> Encoded:
    """What stands for the features of a request that nobody encodes, because of `error`."""
    stage, sensors = describe(request)
    return Encoded(stage=stage, sensors=sensors, features=None, error=error, started_ns=0, finished_ns=0)


def prepare(request: EncodeRequest, config: ModelConfig) -> Prepared:
    """Everything of an encoding but the network; a payload that cannot be decoded gives a `Prepared` with its error."""
    started_ns = monotonic_ns()
    stage, sensors = describe(request)
    arrays, error = tuple[NDArray[np.generic], ...](), None
    try:
        arrays = _arrays(request, config)
    except PayloadError as problem:
        error = str(problem)
    return Prepared(stage=stage, sensors=sensors, arrays=arrays, error=error, started_ns=started_ns)


def encode_prepared(model: InferenceModel, prepared: Sequence[Prepared]) -> list[torch.Tensor]:
    """Features of requests of one stage, in one pass. None of them has an error."""
    stage = prepared[0].stage
    first: list[NDArray[Any]] = [one.arrays[0] for one in prepared]
    if stage == "camera":
        return model.encode_images(first)
    counts: list[NDArray[Any]] = [one.arrays[1] for one in prepared]
    return (model.encode_packed_lidars if stage == "lidar" else model.encode_packed_radars)(first, counts)


def encoded_from(prepared: Prepared, features: torch.Tensor | None) -> Encoded:
    """The features of a request, encoded just now."""
    return Encoded(
        stage=prepared.stage,
        sensors=prepared.sensors,
        features=features,
        error=prepared.error,
        started_ns=prepared.started_ns,
        finished_ns=monotonic_ns(),
    )


def bundle_of(request: FuseRequest, encoded: Sequence[Encoded]) -> Bundle:
    """What of a request can be fused: without the sensors whose encoding failed."""
    views = len(request.cameras)
    cameras, others = list(encoded[:views]), list(encoded[views:])
    lidars, radars = others[: len(request.lidars)], others[len(request.lidars) :]
    seeing = [i for i, one in enumerate(cameras) if one.features is not None]
    sweeping = [i for i, one in enumerate(lidars) if one.features is not None]
    heard = [one.features for one in radars if one.features is not None]
    return Bundle(
        request=replace(
            request,
            cameras=tuple(request.cameras[i] for i in seeing),
            lidars=tuple(request.lidars[i] for i in sweeping),
            lidar_age_ns=tuple(request.lidar_age_ns[i] for i in sweeping),
            radar_age_ns=request.radar_age_ns if heard else None,
        ),
        cameras=[_features(cameras[i]) for i in seeing],
        lidars=[_features(lidars[i]) for i in sweeping],
        radar=heard[0] if heard else None,
    )


def with_account(
    output: FusionOutput, request: FuseRequest, encoded: Sequence[Encoded], fusion: StageSpan
) -> FusionOutput:
    """The output with what failed, and when everything ran and for how long."""
    latency = _stage_latency(encoded, request.received_ns, fusion_ns=fusion.finished_ns - fusion.started_ns)
    latency["until_fusion"] = fusion.started_ns - request.received_ns
    failures = {sensor: one.error for one in encoded if one.error is not None for sensor in one.sensors}
    return replace(output, failures=failures, stage_latency_ns=latency, spans=_spans(encoded, fusion))


def fusion_span(started_ns: int) -> StageSpan:
    """A fusion that is done just now."""
    return StageSpan(stage="fusion", sensors=(), started_ns=started_ns, finished_ns=monotonic_ns())


def _arrays(request: EncodeRequest, config: ModelConfig) -> tuple[NDArray[np.generic], ...]:
    if isinstance(request, CameraRequest):
        return (preprocess_camera(request, config),)
    if isinstance(request, LidarRequest):
        packed = preprocess_lidar(request, config)
    else:
        packed = preprocess_radar(request, config)
    return packed.points, packed.count


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
