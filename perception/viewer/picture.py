"""One picture of one reference time: the cameras with projected boxes, and a bird's-eye view."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.results import PathHints
from perception.core.stages import CameraView
from perception.viewer import colors
from perception.viewer.scenes import Image, Scene
from perception.viewer.wires import detection_corners, label_corners, wire_strips

Pixels = Callable[[NDArray[np.floating]], NDArray[np.int32]]
Boxes = list[tuple[NDArray[np.float64], colors.Color]]

MIN_SCORE = 0.3
"""Detections below it are not drawn."""
RING = (42, 46, 52)
EGO_OUTLINE_M = np.array([[3.8, 0.9], [3.8, -0.9], [-0.9, -0.9], [-0.9, 0.9]])
DOPPLER_S = 0.5
"""A Doppler line is as long as its target goes in this time."""


def draw_scene(scene: Scene, *, height_px: int = 720, columns: int = 2, range_m: float = 50.0) -> Image:
    """A BGR picture (height_px, W, 3): cameras in a grid on the left, the bird's-eye view on the right."""
    bird = draw_bird_view(scene, size_px=height_px, range_m=range_m)
    if not scene.cameras:
        return bird
    rows = -(-len(scene.cameras) // columns)
    cell_h = height_px // rows
    tiles = [fit_height(draw_camera(view, image, scene), cell_h) for view, image in scene.cameras]
    cell_w = max(tile.shape[1] for tile in tiles)
    grid = np.full((height_px, cell_w * min(columns, len(tiles)), 3), _bgr(colors.BACKGROUND), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * cell_h, (i % columns) * cell_w
        grid[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return np.concatenate([grid, bird], axis=1)


def draw_camera(view: CameraView, image: Image, scene: Scene) -> Image:
    """The image with the boxes that project into it; it may be smaller than the camera's full size."""
    canvas = image.copy()
    scale = image.shape[1] / view.camera.width_px
    width = max(1, canvas.shape[1] // 700)
    for corners, color in [*_truth(scene), *_perceived(scene)]:
        for strip in wire_strips(view, corners):
            at = (strip * scale).round().astype(np.int32)
            cv2.polylines(canvas, [at], False, _bgr(color), width, cv2.LINE_AA)
    _write(canvas, view.sensor, 0.45 * max(1.0, image.shape[1] / 700))
    return canvas


def draw_bird_view(scene: Scene, *, size_px: int, range_m: float) -> Image:
    """Bird's-eye view (size_px, size_px, 3), forward up, the ego in the middle."""
    canvas = np.full((size_px, size_px, 3), _bgr(colors.BACKGROUND), dtype=np.uint8)
    scale = size_px / (2 * range_m)

    def pixels(points: NDArray[np.floating]) -> NDArray[np.int32]:
        return np.stack([size_px / 2 - points[..., 1] * scale, size_px / 2 - points[..., 0] * scale], -1).astype(
            np.int32
        )

    for ring in range(10, int(range_m) + 1, 10):
        cv2.circle(canvas, (size_px // 2, size_px // 2), int(ring * scale), _bgr(RING), 1, cv2.LINE_AA)
        _write(canvas, f"{ring} m", 0.35, at=(size_px // 2 + 4, size_px // 2 - int(ring * scale) - 3), color=(95,) * 3)
    _draw_points(canvas, pixels(scene.lidar_m), scene.lidar_m[:, 2])
    _draw_radar(canvas, scene, pixels)
    for corners, color in _truth(scene):
        cv2.polylines(canvas, [pixels(corners[:4])], True, _bgr(color), 1, cv2.LINE_AA)
    for corners, color in _perceived(scene):
        cv2.polylines(canvas, [pixels(corners[:4])], True, _bgr(color), 2, cv2.LINE_AA)
        middle, front = pixels(np.stack([corners[:4].mean(0), corners[:2].mean(0)])).tolist()
        cv2.line(canvas, middle, front, _bgr(color), 2, cv2.LINE_AA)
    if scene.result is not None:
        _draw_hints(canvas, scene.result.path_hints, pixels)
    cv2.fillPoly(canvas, [pixels(EGO_OUTLINE_M)], _bgr(colors.EGO), cv2.LINE_AA)
    return canvas


def fit_height(image: Image, height_px: int) -> Image:
    """The image at this height, its shape kept."""
    width = round(image.shape[1] * height_px / image.shape[0])
    return np.asarray(cv2.resize(image, (width, height_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw_points(canvas: Image, at: NDArray[np.int32], height_m: NDArray[np.floating]) -> None:
    inside = np.all((at >= 0) & (at < canvas.shape[0]), axis=1)
    canvas[at[inside, 1], at[inside, 0]] = colors.height_colors(height_m[inside])[:, ::-1]


def _draw_radar(canvas: Image, scene: Scene, pixels: Pixels) -> None:
    ends = scene.radar_m + scene.radar_direction * scene.radial_mps[:, None] * DOPPLER_S
    for start, end in zip(pixels(scene.radar_m).tolist(), pixels(ends).tolist(), strict=True):
        cv2.circle(canvas, start, 1, _bgr(colors.RADAR), -1, cv2.LINE_AA)
        cv2.line(canvas, start, end, _bgr(colors.RADAR), 1, cv2.LINE_AA)


def _draw_hints(canvas: Image, hints: PathHints, pixels: Pixels) -> None:
    for confidence, path in sorted(
        zip(hints.confidence.tolist(), hints.waypoints_m, strict=True), key=lambda one: one[0]
    ):
        points = pixels(np.concatenate([np.zeros((1, 2), dtype=np.float32), path]))
        strength = 0.25 + 0.75 * confidence / max(float(hints.confidence.max()), 1e-6)
        red, green, blue = (int(channel * strength) for channel in colors.HINT)
        cv2.polylines(canvas, [points], False, (blue, green, red), 2, cv2.LINE_AA)


def _truth(scene: Scene) -> Boxes:
    return [] if scene.labels is None else [(corners, colors.TRUTH) for corners in label_corners(scene.labels)]


def _perceived(scene: Scene) -> Boxes:
    if scene.result is None:
        return []
    shown = scene.result.detections.rows(scene.result.detections.score >= MIN_SCORE)
    return [
        (corners, colors.CLASS_COLORS[label])
        for corners, label in zip(detection_corners(shown), shown.class_index.tolist(), strict=True)
    ]


def _write(
    canvas: Image, text: str, size: float, *, at: tuple[int, int] | None = None, color: colors.Color = (255,) * 3
) -> None:
    place = at or (8, int(34 * size) + 4)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def _bgr(color: colors.Color) -> colors.Color:
    return color[2], color[1], color[0]
