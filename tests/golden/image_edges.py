"""How well projected lidar points fit what an image shows: depth edges of the points against edges of the picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel

CELL_PX = 8
MIN_DEPTH_RATIO = 1.3


def edge_scores(
    camera: CameraModel, image: bytes, points_camera_m: NDArray[np.float64], reach: int = 6
) -> NDArray[np.float64]:
    """Sum of image edge strength over the cells where depth jumps sideways, for each shift in -reach..reach cells.

    points_camera_m: (N, 3) in camera axes. A right projection has its best score at shift 0, index `reach`.
    """
    grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    rows, columns = grey.shape[0] // CELL_PX, grey.shape[1] // CELL_PX
    pixels, is_visible = camera.project(points_camera_m)
    cells = np.clip((pixels[is_visible] // CELL_PX).astype(int), 0, [columns - 1, rows - 1])
    depth = np.full((rows, columns), np.inf)
    np.minimum.at(depth, (cells[:, 1], cells[:, 0]), np.linalg.norm(points_camera_m[is_visible], axis=1))
    left, right = depth[:, :-1], depth[:, 1:]
    is_known = np.isfinite(left) & np.isfinite(right)
    jumps = np.zeros((rows, columns))
    jumps[:, 1:][is_known] = np.abs(np.log(left[is_known] / right[is_known])) > np.log(MIN_DEPTH_RATIO)
    gradient = np.abs(cv2.Sobel(cv2.GaussianBlur(grey, (5, 5), 0).astype(np.float32), cv2.CV_32F, 1, 0))
    whole = gradient[: rows * CELL_PX, : columns * CELL_PX].reshape(rows, CELL_PX, columns, CELL_PX)
    strength = np.log1p(whole.max(axis=(1, 3)))
    strength -= strength.mean()
    return np.array([float((np.roll(jumps, shift, axis=1) * strength).sum()) for shift in range(-reach, reach + 1)])
