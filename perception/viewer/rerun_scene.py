"""Writes scenes and results into a Rerun recording: the 3D scene, the images, and the figures of the service.

Paths: `world/ego/...` what is seen from the ego, in its frame; `world/truth` labels, in the world's; `cameras/NAME`
with `boxes` and `truth`; `plots/...` time series. Timelines: `capture_time` and `sequence`.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import rerun as rr
from numpy.typing import NDArray

from perception.core.geometry import invert, transform_points
from perception.core.labels import Labels
from perception.core.results import NO_TRACK, Detections, PathHints, PerceptionResult
from perception.core.stages import CameraView
from perception.core.taxonomy import CLASSES
from perception.viewer import colors
from perception.viewer.picture import DOPPLER_S, MIN_SCORE
from perception.viewer.rerun_plots import PlotLog
from perception.viewer.scenes import Image, Scene
from perception.viewer.wires import detection_corners, label_corners, wire_strips

F64 = NDArray[np.float64]

CAPTURE_TIME, SEQUENCE = "capture_time", "sequence"
JPEG_QUALITY = 80
HINT_HEIGHT_M = 0.15
EGO_CENTER_M, EGO_HALF_M = (1.45, 0.0, 0.8), (2.35, 0.95, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneStyle:
    """How scenes are drawn. max_points: of each scene's lidar points no more than these are kept, evenly."""

    color: Literal["height", "intensity"] = "height"
    max_points: int = 40_000
    min_score: float = MIN_SCORE


class SceneLog:
    """Writes into one recording. The world begins where the ego first is, so that numbers stay small."""

    def __init__(self, recording: rr.RecordingStream, style: SceneStyle) -> None:
        self._recording = recording
        self._style = style
        self._plots = PlotLog(recording)
        self._origin_SE3_world: F64 | None = None
        recording.log("world", rr.ViewCoordinates.FLU, static=True)
        ego = rr.Boxes3D(centers=[EGO_CENTER_M], half_sizes=[EGO_HALF_M], colors=[colors.EGO])
        recording.log("world/ego/vehicle", ego, static=True)

    def scene(self, scene: Scene) -> None:
        """All that there is of one reference time."""
        self.sensors(scene)
        if scene.result is not None:
            self.result(scene.result)

    def sensors(self, scene: Scene) -> None:
        """What the sensors saw; in images also the boxes of labels and result."""
        self._begin(scene.reference_ns, scene.sequence)
        placed_SE3_ego = self._place(scene.world_SE3_ego)
        self._points(scene)
        self._truth(scene.labels, placed_SE3_ego)
        for view, image in scene.cameras:
            self._camera(view, image, scene)

    def result(self, result: PerceptionResult) -> None:
        """What was perceived, in the 3D scene, and the figures of the service."""
        self._begin(result.reference_ns, result.sequence)
        self._place(result.world_SE3_ego)
        self._perceived(result)

    def _begin(self, reference_ns: int, sequence: int) -> None:
        self._recording.set_time(CAPTURE_TIME, timestamp=np.datetime64(reference_ns, "ns"))
        self._recording.set_time(SEQUENCE, sequence=sequence)

    def _place(self, world_SE3_ego: F64 | None) -> F64:
        """Put the ego where it is; without poses it stays at the origin."""
        if world_SE3_ego is None:
            return np.eye(4)
        if self._origin_SE3_world is None:
            self._origin_SE3_world = invert(world_SE3_ego)
        placed: F64 = self._origin_SE3_world @ world_SE3_ego
        self._recording.log("world/ego", rr.Transform3D(translation=placed[:3, 3], mat3x3=placed[:3, :3]))
        return placed

    def _points(self, scene: Scene) -> None:
        keep = slice(None, None, max(1, -(-len(scene.lidar_m) // self._style.max_points)))
        points, intensity = scene.lidar_m[keep], scene.intensity[keep]
        by_height = self._style.color == "height"
        shades = colors.height_colors(points[:, 2]) if by_height else colors.intensity_colors(intensity)
        self._recording.log("world/ego/lidar", rr.Points3D(points, colors=shades, radii=rr.Radius.ui_points(1.2)))
        radar = rr.Points3D(scene.radar_m, colors=[colors.RADAR], radii=rr.Radius.ui_points(3.0))
        self._recording.log("world/ego/radar", radar)
        moves = scene.radar_direction * scene.radial_mps[:, None] * DOPPLER_S
        doppler = rr.Arrows3D(origins=scene.radar_m, vectors=moves, colors=[colors.RADAR], radii=[0.04])
        self._recording.log("world/ego/radar/doppler", doppler)

    def _truth(self, labels: Labels | None, placed_SE3_ego: F64) -> None:
        """Labels as they are at this time. None are kept from times before: what moves would be elsewhere."""
        if labels is None:
            self._recording.log("world/truth", rr.Clear(recursive=False))
            return
        corners = transform_points(placed_SE3_ego, label_corners(labels))
        boxes = rr.LineStrips3D(
            [strip for box in corners for strip in _outline(box)], colors=[colors.TRUTH], radii=rr.Radius.ui_points(1.0)
        )
        self._recording.log("world/truth", boxes)

    def _perceived(self, result: PerceptionResult) -> None:
        detections = self._shown(result)
        shades = [colors.CLASS_COLORS[index] for index in detections.class_index]
        boxes = rr.Boxes3D(
            centers=detections.center_m,
            sizes=detections.size_m,
            rotations=[rr.Quaternion(xyzw=[0, 0, np.sin(yaw / 2), np.cos(yaw / 2)]) for yaw in detections.yaw_rad],
            colors=shades,
            radii=rr.Radius.ui_points(1.5),
            labels=_names(detections),
            show_labels=True,
        )
        self._recording.log("world/ego/detections", boxes)
        velocity = np.pad(detections.velocity_mps, ((0, 0), (0, 1)))
        moves = rr.Arrows3D(origins=detections.center_m, vectors=velocity, colors=shades, radii=[0.08])
        self._recording.log("world/ego/detections/velocity", moves)
        self._recording.log("world/ego/hints", _hint_strips(result.path_hints))
        self._plots.result(result, shown=len(detections))

    def _camera(self, view: CameraView, image: Image, scene: Scene) -> None:
        path = camera_path(view.sensor)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        self._recording.log(path, rr.EncodedImage(contents=data, media_type="image/jpeg"))
        scale = image.shape[1] / view.camera.width_px
        truth = label_corners(scene.labels) if scene.labels is not None else np.zeros((0, 8, 3))
        self._wires(f"{path}/truth", view, truth, [colors.TRUTH] * len(truth), scale)
        if scene.result is not None:
            detections = self._shown(scene.result)
            shades = [colors.CLASS_COLORS[index] for index in detections.class_index]
            self._wires(f"{path}/boxes", view, detection_corners(detections), shades, scale)

    def _wires(self, path: str, view: CameraView, corners: F64, shades: list[colors.Color], scale: float) -> None:
        """Boxes in an image. A pixel's centre is at half a pixel here, at a whole one in `CameraModel`."""
        strips, colored = [], []
        for box, shade in zip(corners, shades, strict=True):
            for strip in wire_strips(view, box):
                strips.append((strip + 0.5) * scale)
                colored.append(shade)
        self._recording.log(path, rr.LineStrips2D(strips, colors=colored, radii=rr.Radius.ui_points(1.0)))

    def _shown(self, result: PerceptionResult) -> Detections:
        return result.detections.rows(result.detections.score >= self._style.min_score)


def camera_path(name: str) -> str:
    """Where a camera's image is; names may hold anything."""
    return rr.new_entity_path(["cameras", name]).lstrip("/")


def _outline(corners: F64) -> list[F64]:
    """A box (8, 3) as few strips: bottom and top in one, and the other three uprights."""
    around = corners[[0, 1, 2, 3, 0, 4, 5, 6, 7, 4]]
    return [around, corners[[1, 5]], corners[[2, 6]], corners[[3, 7]]]


def _names(detections: Detections) -> list[str]:
    columns = zip(detections.class_index, detections.score, detections.track_id, strict=True)
    return [f"{CLASSES[i]} {score:.2f}" + (f" #{track}" if track != NO_TRACK else "") for i, score, track in columns]


def _hint_strips(hints: PathHints) -> rr.LineStrips3D:
    """The paths from the ego on, the best brightest."""
    start = np.zeros((len(hints.confidence), 1, 2), dtype=np.float32)
    flat = np.concatenate([start, hints.waypoints_m], axis=1)
    strips = np.pad(flat, ((0, 0), (0, 0), (0, 1)), constant_values=HINT_HEIGHT_M)
    share = hints.confidence / max(float(hints.confidence.max(initial=0.0)), 1e-6)
    shades = [(*colors.HINT, round(50 + 205 * float(one))) for one in share]
    return rr.LineStrips3D(list(strips), colors=shades, radii=[0.12])
