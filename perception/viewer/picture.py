"""One picture of one reference time: the cameras with projected boxes, and a bird's-eye view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.boxes import EDGES, box_corners
from perception.core.geometry import invert, quaternion_to_rotation, rotation_from_yaw, transform_points
from perception.core.labels import Labels
from perception.core.results import PathHints, PerceptionResult
from perception.core.stages import CameraView

Image = NDArray[np.uint8]
Pixels = Callable[[NDArray[np.floating]], NDArray[np.int32]]

BACKGROUND = (24, 20, 18)
TRUTH_BGR = (170, 170, 170)
HINT_BGR = (80, 220, 255)
RADAR_BGR = (90, 90, 255)
CLASS_BGR = (
    (80, 200, 80), (60, 160, 240), (40, 200, 240), (200, 140, 60), (30, 110, 200),
    (230, 120, 220), (240, 180, 80), (200, 220, 60), (60, 120, 255), (150, 130, 110),
)  # fmt: skip
"""One colour for each of `CLASSES`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What there is to draw at one reference time, all in the ego frame at the reference.

    cameras: view and decoded BGR image of each present camera. lidar_m: (N, 3). radar_m: (M, 3) with
    radial_mps (M,) over ground. labels: ground truth, where there is any.
    """

    result: PerceptionResult
    cameras: Sequence[tuple[CameraView, Image]]
    lidar_m: NDArray[np.float32]
    radar_m: NDArray[np.float32]
    radial_mps: NDArray[np.float32]
    labels: Labels | None
    min_score: float = 0.3


def draw_scene(scene: Scene, *, height_px: int = 720, columns: int = 2, range_m: float = 50.0) -> Image:
    """A BGR picture (height_px, W, 3): cameras in a grid on the left, the bird's-eye view on the right."""
    bird = draw_bird_view(scene, size_px=height_px, range_m=range_m)
    if not scene.cameras:
        return bird
    rows = -(-len(scene.cameras) // columns)
    cell_h = height_px // rows
    tiles = [_fit(draw_camera(view, image, scene), cell_h) for view, image in scene.cameras]
    cell_w = max(tile.shape[1] for tile in tiles)
    grid = np.full((height_px, cell_w * columns, 3), BACKGROUND, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * cell_h, (i % columns) * cell_w
        grid[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return np.concatenate([grid, bird], axis=1)


def draw_camera(view: CameraView, image: Image, scene: Scene) -> Image:
    """The image with the boxes that project into it; it may be smaller than the camera's full size."""
    canvas = image.copy()
    scale = image.shape[1] / view.camera.width_px
    camera_SE3_reference = invert(view.reference_SE3_camera)
    if scene.labels is not None:
        for corners in _label_corners(scene.labels):
            _draw_wire(canvas, view, camera_SE3_reference, corners, TRUTH_BGR, scale)
    for corners, color in _detection_corners(scene):
        _draw_wire(canvas, view, camera_SE3_reference, corners, color, scale)
    size = 0.45 * max(1.0, image.shape[1] / 700)
    cv2.putText(
        canvas, view.sensor, (8, int(34 * size) + 4), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
    )
    return canvas


def draw_bird_view(scene: Scene, *, size_px: int, range_m: float) -> Image:
    """Bird's-eye view (size_px, size_px, 3), forward up, the ego in the middle."""
    canvas = np.full((size_px, size_px, 3), BACKGROUND, dtype=np.uint8)
    scale = size_px / (2 * range_m)

    def pixels(points: NDArray[np.floating]) -> NDArray[np.int32]:
        return np.stack([size_px / 2 - points[..., 1] * scale, size_px / 2 - points[..., 0] * scale], -1).astype(
            np.int32
        )

    for ring in range(10, int(range_m) + 1, 10):
        cv2.circle(canvas, (size_px // 2, size_px // 2), int(ring * scale), (52, 46, 42), 1, cv2.LINE_AA)
    _draw_points(canvas, pixels(scene.lidar_m), scene.lidar_m[:, 2] if len(scene.lidar_m) else np.zeros(0))
    for point, radial in zip(scene.radar_m, scene.radial_mps, strict=True):
        start = pixels(point[None])[0]
        cv2.circle(canvas, start.tolist(), 2, RADAR_BGR, -1, cv2.LINE_AA)
        end = pixels((point[:2] * (1 + radial * 0.5 / max(float(np.hypot(*point[:2])), 1.0)))[None])[0]
        cv2.line(canvas, start.tolist(), end.tolist(), RADAR_BGR, 1, cv2.LINE_AA)
    if scene.labels is not None:
        for corners in _label_corners(scene.labels):
            cv2.polylines(canvas, [pixels(corners[:4])], True, TRUTH_BGR, 1, cv2.LINE_AA)
    for corners, color in _detection_corners(scene):
        cv2.polylines(canvas, [pixels(corners[:4])], True, color, 2, cv2.LINE_AA)
        cv2.line(
            canvas, pixels(corners[:4].mean(0)).tolist(), pixels(corners[:2].mean(0)).tolist(), color, 2, cv2.LINE_AA
        )
    _draw_hints(canvas, scene.result.path_hints, pixels)
    ego = np.array([[3.8, 0.9], [3.8, -0.9], [-0.9, -0.9], [-0.9, 0.9]])
    cv2.fillPoly(canvas, [pixels(ego)], (220, 220, 220), cv2.LINE_AA)
    return canvas


def _draw_points(canvas: Image, at: NDArray[np.int32], height_m: NDArray[np.floating]) -> None:
    inside = np.all((at >= 0) & (at < canvas.shape[0]), axis=1)
    shade = np.clip((height_m[inside] + 0.5) / 4.0 * 255, 0, 255).astype(np.uint8)
    colors = cv2.applyColorMap(shade[:, None], cv2.COLORMAP_VIRIDIS)[:, 0] if len(shade) else np.zeros((0, 3), np.uint8)
    canvas[at[inside, 1], at[inside, 0]] = colors


def _draw_hints(canvas: Image, hints: PathHints, pixels: Pixels) -> None:
    for confidence, path in sorted(
        zip(hints.confidence.tolist(), hints.waypoints_m, strict=True), key=lambda one: one[0]
    ):
        points = pixels(np.concatenate([np.zeros((1, 2), dtype=np.float32), path]))
        strength = 0.25 + 0.75 * confidence / max(float(hints.confidence.max()), 1e-6)
        color = tuple(int(channel * strength) for channel in HINT_BGR)
        cv2.polylines(canvas, [points], False, color, 2, cv2.LINE_AA)


def _label_corners(labels: Labels) -> NDArray[np.float64]:
    if not len(labels):
        return np.zeros((0, 8, 3))
    return box_corners(labels.center_m, labels.size_m, quaternion_to_rotation(labels.quaternion_wxyz))


def _detection_corners(scene: Scene) -> list[tuple[NDArray[np.float64], tuple[int, int, int]]]:
    shown = scene.result.detections.rows(scene.result.detections.score >= scene.min_score)
    if not len(shown):
        return []
    rotations = np.stack([rotation_from_yaw(float(yaw)) for yaw in shown.yaw_rad])
    corners = box_corners(shown.center_m, shown.size_m, rotations)
    return [(box, CLASS_BGR[label]) for box, label in zip(corners, shown.class_index.tolist(), strict=True)]


def _draw_wire(
    canvas: Image,
    view: CameraView,
    camera_SE3_reference: NDArray[np.float64],
    corners: NDArray[np.float64],
    color: tuple[int, int, int],
    scale: float,
) -> None:
    """Draw the edges of a box, each cut into short pieces so that distortion bends it and the image border clips it."""
    share = np.linspace(0.0, 1.0, 13)[:, None]
    for first, second in EDGES:
        points = corners[first] + share * (corners[second] - corners[first])
        pixels, is_visible = view.camera.project(transform_points(camera_SE3_reference, points))
        at = (pixels * scale).round().astype(np.int64)
        for i in range(len(at) - 1):
            if is_visible[i] and is_visible[i + 1]:
                cv2.line(canvas, at[i].tolist(), at[i + 1].tolist(), color, max(1, canvas.shape[1] // 700), cv2.LINE_AA)


def _fit(image: Image, height_px: int) -> Image:
    width = round(image.shape[1] * height_px / image.shape[0])
    return np.asarray(cv2.resize(image, (width, height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)
