"""Training frames from any labelled source: its messages run through the service's own session, and what the encoders
would have been given is kept, with what is true about it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ModelConfig, ServiceConfig, SyncConfig
from perception.config.training import DataConfig
from perception.core.clock import ManualClock
from perception.core.errors import PayloadError
from perception.core.messages import AnyMessage, Unreadable
from perception.core.ports import FeatureHandle, Source, TruthSource
from perception.core.stages import (
    CameraRequest,
    CameraView,
    EncodeRequest,
    FuseRequest,
    FusionOutput,
    LidarRequest,
    ModelInfo,
    RadarRequest,
)
from perception.evaluation.future_path import MAX_GAP_NS, FuturePath, exact_path
from perception.models.inference import ego_vector
from perception.models.lenses import network_camera as network_camera
from perception.models.preprocess import LIDAR_FIELDS, RADAR_FIELDS
from perception.pipeline.preprocess import preprocess_camera, preprocess_lidar, preprocess_radar
from perception.pipeline.session import Session
from perception.training.cleaning import Findings, Rule, clean_labels
from perception.training.frames import TARGET_SPEED_WINDOW_S, TrainingFrame

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RELEASE_EVERY_NS: Final = 1_000_000_000
"""How often, in the drive's time, it is looked which frames know their path by now."""


def collect_frames(
    source: Source, model: ModelConfig, data: DataConfig, sync: SyncConfig, findings: Findings
) -> Iterator[TrainingFrame]:
    """Every `data.every`-th labelled time of a drive as a frame, in order of time; what is unfit goes to `findings`.

    A frame comes once its path is known, or when the drive has gone on so far (or ended) that it will not be. A
    steerable source gets no results: whoever drives it drives by himself.
    """
    times = source.label_times_ns
    if not times:
        findings.add(Rule.DRIVE_WITHOUT_LABELS, source.drive_id)
        return
    wanted = frozenset(times[:: data.every])
    engine = _KeepingEngine(model.lidar.sweeps)
    session = Session(
        drive_id=source.drive_id,
        run_id="training",
        rig=source.rig,
        engine=engine,
        config=ServiceConfig(sync=sync.model_copy(update={"reference": data.reference})),
        clock=ManualClock(0),
        reference_times=wanted,
    )
    maker = _FrameMaker(source, model, data.max_boxes, findings)
    waiting = _WaitingFrames(source, model)
    for message in source.messages():
        _note_unreadable(message, findings)
        waiting.observe(message)
        session.push(message)
        waiting.add(maker.frames(wanted, engine.take()))
        yield from waiting.release(message.arrival_ns)
    session.finish()
    waiting.add(maker.frames(wanted, engine.take()))
    yield from waiting.release(None)
    findings.add(Rule.TIME_WITHOUT_FRAME, source.drive_id, len(wanted - maker.seen_ns))


class _Kept:
    """A request and, once it was asked for, what its encoder would be given: each payload is decoded at most once."""

    def __init__(self, request: EncodeRequest) -> None:
        self.request = request
        self.image: NDArray[np.uint8] | None = None
        self.points: F32 | None = None
        self.error: str | None = None

    @property
    def key(self) -> str:
        return self.request.key

    def preprocess(self, model: ModelConfig, findings: Findings) -> None:
        if self.image is not None or self.points is not None or self.error is not None:
            return
        request = self.request
        if isinstance(request, CameraRequest):
            try:
                self.image = preprocess_camera(request, model)
            except PayloadError as error:
                self.error = str(error)
                where = f"{request.frame.sensor} at {request.frame.capture_ns}"
                findings.add(Rule.UNREADABLE_IMAGE, f"{where}: {error}")
            return
        packed = preprocess_lidar(request, model) if isinstance(request, LidarRequest) else None
        if packed is None:
            assert isinstance(request, RadarRequest)
            packed = preprocess_radar(request, model)
        self.points = packed.points[: int(packed.count)].copy()
        findings.add(Rule.POINT_NOT_FINITE, request.key, packed.nonfinite)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bundle:
    request: FuseRequest
    features: tuple[_Kept, ...]


class _KeepingEngine:
    """An engine that encodes nothing: it keeps requests, which are looked at only where they make a frame."""

    placement = "training"

    def __init__(self, lidar_sweeps: int) -> None:
        self.model = ModelInfo(name="none", hash="0" * 16, trained=False, lidar_sweeps=lidar_sweeps)
        self._bundles: list[_Bundle] = []

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return _Kept(request)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        """Keep one bundle; nobody waits for the future."""
        kept = tuple(one for one in features if isinstance(one, _Kept))
        self._bundles.append(_Bundle(request=request, features=kept))
        return Future()

    def take(self) -> list[_Bundle]:
        """The bundles since the last call."""
        bundles, self._bundles = self._bundles, []
        return bundles

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """Nothing to do: what is kept goes with its bundle."""

    def close(self) -> None:
        """Nothing to stop."""


class _FrameMaker:
    """Bundles to frames that do not know their path yet."""

    def __init__(self, source: Source, model: ModelConfig, max_boxes: int, findings: Findings) -> None:
        self._source = source
        self._truth = source if isinstance(source, TruthSource) else None
        self._model = model
        self._max_boxes = max_boxes
        self._findings = findings
        self.seen_ns: set[int] = set()

    def frames(self, wanted: frozenset[int], bundles: list[_Bundle]) -> list[TrainingFrame]:
        made = [self._frame(bundle) for bundle in bundles if bundle.request.reference_ns in wanted]
        return [frame for frame in made if frame is not None]

    def _frame(self, bundle: _Bundle) -> TrainingFrame | None:
        request, model, findings = bundle.request, self._model, self._findings
        where = f"{self._source.drive_id} at {request.reference_ns}"
        if request.reference_ns in self.seen_ns:
            findings.add(Rule.FRAME_AGAIN, where)
            return None
        labels = self._source.labels(request.reference_ns)
        if labels is None:
            return None
        self.seen_ns.add(request.reference_ns)
        for kept in bundle.features:
            kept.preprocess(model, findings)
        views, lidars, radar = _sort(bundle)
        if not (views or lidars or radar is not None):
            findings.add(Rule.FRAME_WITHOUT_SENSORS, where)
            return None
        clean = clean_labels(labels, model.range_m, self._max_boxes, findings, where)
        cameras = [network_camera(view.camera, model.image) for view, _ in views]
        shape = (0, 3, model.image.height_px, model.image.width_px)
        return TrainingFrame(
            drive_id=self._source.drive_id,
            reference_ns=request.reference_ns,
            images=np.stack([image for _, image in views]) if views else np.zeros(shape, dtype=np.uint8),
            cameras=tuple(camera for camera, _ in cameras),
            top_px=np.array([top for _, top in cameras], dtype=np.float32),
            reference_SE3_camera=_float32([view.reference_SE3_camera for view, _ in views], (4, 4)),
            camera_age_s=_float32([view.age_ns * 1e-9 for view, _ in views], ()),
            lidar_points=_joined([points for points, _ in lidars], len(LIDAR_FIELDS)),
            lidar_count=np.array([len(points) for points, _ in lidars], dtype=np.int64),
            lidar_age_s=_float32([age_ns * 1e-9 for _, age_ns in lidars], ()),
            radar_points=_joined([] if radar is None else [radar], len(RADAR_FIELDS)),
            radar_age_s=None if radar is None else (request.radar_age_ns or 0) * 1e-9,
            ego=ego_vector(request),
            class_index=clean.class_index,
            boxes=clean.boxes,
            attribute_index=clean.attribute_index,
            visible_share=clean.visible_share,
            path_m=np.zeros((model.path_steps, 2), dtype=np.float32),
            path_known=np.zeros(model.path_steps, dtype=np.bool_),
            target_speed_mps=float("nan"),
            drivable=self._drivable(request.reference_ns),
        )

    def _drivable(self, reference_ns: int) -> NDArray[np.bool_] | None:
        """(G, G) in the cells of the network, which lie as those of `TruthSource.drivable` do.

        Masks of nuScenes roots are not read: those of nuScenes itself show roads and sidewalks in one (Caesar et al.,
        nuScenes, CVPR 2020).
        """
        if self._truth is None:
            return None
        half_m = self._model.range_m
        return self._truth.drivable(reference_ns, half_m, 2 * half_m / self._model.bev_cells)


class _WaitingFrames:
    """Frames until the ego has driven as far as their paths reach."""

    def __init__(self, source: Source, model: ModelConfig) -> None:
        self._source = source
        self._poses = FuturePath()
        self._times_s = np.arange(1, model.path_steps + 1, dtype=np.float64) * model.path_step_s
        reach_s = max(float(self._times_s[-1]), TARGET_SPEED_WINDOW_S[1])
        # A pose further off than a gap tells nothing any more.
        self._patience_ns = round(reach_s * 1e9) + MAX_GAP_NS
        self._frames: list[TrainingFrame] = []
        self._looked_ns: int | None = None

    def observe(self, message: AnyMessage) -> None:
        self._poses.observe(message)

    def add(self, frames: list[TrainingFrame]) -> None:
        self._frames += frames

    def release(self, now_ns: int | None) -> list[TrainingFrame]:
        """The frames whose time has come at `now_ns` of the arrival clock (None: the drive has ended), with paths."""
        if not self._frames:
            return []
        if now_ns is not None and self._looked_ns is not None and 0 <= now_ns - self._looked_ns < RELEASE_EVERY_NS:
            return []
        self._looked_ns = now_ns
        frames, self._frames = self._frames, []
        due: list[TrainingFrame] = []
        for frame in frames:
            is_due = now_ns is None or frame.reference_ns + self._patience_ns <= now_ns
            (due if is_due else self._frames).append(frame)
        return [self._with_path(frame) for frame in due]

    def _with_path(self, frame: TrainingFrame) -> TrainingFrame:
        path, is_known = self._path_at(frame.reference_ns, self._times_s)
        return replace(
            frame,
            path_m=np.where(is_known[:, None], path, 0.0).astype(np.float32),
            path_known=is_known,
            target_speed_mps=self._target_speed(frame.reference_ns),
        )

    def _path_at(self, reference_ns: int, times_s: F64) -> tuple[F64, NDArray[np.bool_]]:
        """Where the ego was: exactly where the source knows it, else by the poses that it observed of itself."""
        if (path := exact_path(self._source, reference_ns, times_s)) is not None:
            return path, np.ones(len(times_s), dtype=np.bool_)
        return self._poses.path_at(reference_ns, times_s)

    def _target_speed(self, reference_ns: int) -> float:
        """Mean speed in m/s over `TARGET_SPEED_WINDOW_S`, from three places of the ego; nan where one is not known."""
        start_s, end_s = TARGET_SPEED_WINDOW_S
        middle_s = (start_s + end_s) / 2
        places, _ = self._path_at(reference_ns, np.array([start_s, middle_s, end_s]))
        return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum() / (end_s - start_s))


def _sort(
    bundle: _Bundle,
) -> tuple[list[tuple[CameraView, NDArray[np.uint8]]], list[tuple[F32, int]], F32 | None]:
    """Views with their images, sweeps' points with their ages in ns, and the radars' returns: what could be read."""
    request, features = bundle.request, bundle.features
    cameras, others = features[: len(request.cameras)], features[len(request.cameras) :]
    lidars, radars = others[: len(request.lidars)], others[len(request.lidars) :]
    views = [(view, one.image) for view, one in zip(request.cameras, cameras, strict=True) if one.image is not None]
    ages = zip(lidars, request.lidar_age_ns, strict=True)
    return (
        views,
        [(one.points, age_ns) for one, age_ns in ages if one.points is not None],
        next((one.points for one in radars if one.points is not None), None),
    )


def _note_unreadable(message: AnyMessage, findings: Findings) -> None:
    if isinstance(message, Unreadable):
        findings.add(Rule.UNREADABLE, f"{message.sensor} at {message.capture_ns}: {message.error}")


def _float32(rows: Sequence[object], shape: tuple[int, ...]) -> F32:
    return np.array(rows, dtype=np.float32).reshape(len(rows), *shape)


def _joined(parts: list[F32], columns: int) -> F32:
    return np.concatenate([np.zeros((0, columns), dtype=np.float32), *parts])
