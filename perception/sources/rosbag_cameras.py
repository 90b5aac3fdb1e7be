"""`sensor_msgs/CameraInfo` to camera models.

Models and fields: sensor_msgs/CameraInfo.msg; `plumb_bob` and `rational_polynomial` are OpenCV's, `equidistant` is its
fisheye model. K is for the full image: a window (roi) and binning move and shrink it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError

_FISHEYE = ("equidistant", "fisheye", "kannala_brandt4")
_BROWN_SIZES = (4, 5, 8)


def camera_from_info(name: str, message: object, *, is_rectified: bool) -> CameraModel:
    """The camera of an image topic. is_rectified: its images are undistorted, so the projection P holds, not K and D.

    Raises DriveError, naming `name`, where the camera was never calibrated or its model is not known.
    """
    lower = _lower_case(message)
    intrinsic = np.array(lower["p"], dtype=np.float64).reshape(3, 4)[:, :3] if is_rectified else None
    if intrinsic is None or not np.any(intrinsic):
        intrinsic = np.array(lower["k"], dtype=np.float64).reshape(3, 3)
    if not np.any(intrinsic):
        raise DriveError(f"{name}: its CameraInfo is all zeros: the camera is not calibrated; give `camera` for it")
    width, height = _window(message, intrinsic)
    if is_rectified:
        return make_camera(name, width, height, intrinsic, "", ())
    model = str(getattr(message, "distortion_model", ""))
    return make_camera(name, width, height, intrinsic, model, [float(value) for value in lower["d"]])


def make_camera(
    name: str, width: int, height: int, intrinsic: NDArray[np.float64], model: str, distortion: Sequence[float]
) -> CameraModel:
    """A camera by the names that ROS has for models; an empty one is a pinhole. Raises DriveError, naming `name`."""
    projection, coefficients = Projection.PINHOLE, np.zeros(0)
    if any(distortion):
        projection, coefficients = _lens(name, model, np.array(distortion, dtype=np.float64))
    try:
        return CameraModel(
            width_px=width, height_px=height, intrinsic=intrinsic, projection=projection, distortion=coefficients
        )
    except ValueError as error:
        raise DriveError(f"{name}: {error}") from error


def _lens(name: str, model: str, distortion: NDArray[np.float64]) -> tuple[Projection, NDArray[np.float64]]:
    if model in _FISHEYE:
        return Projection.KANNALA_BRANDT, distortion[:4]
    if model not in ("plumb_bob", "rational_polynomial", ""):
        raise DriveError(
            f"{name}: distortion model {model!r} is not known; known are plumb_bob, rational_polynomial, equidistant"
        )
    if np.any(distortion[8:]):
        raise DriveError(f"{name}: thin prism and tilt (coefficients 9 to {len(distortion)}) are not known")
    length = min(len(distortion), 8)
    if length not in _BROWN_SIZES:
        raise DriveError(f"{name}: {model} takes 4, 5 or 8 coefficients, got {len(distortion)}")
    return Projection.BROWN, distortion[:length]


def _window(message: object, intrinsic: NDArray[np.float64]) -> tuple[int, int]:
    """Size of the images, with `intrinsic` moved and shrunk to them in place."""
    roi = getattr(message, "roi", None)
    width, height = int(getattr(message, "width", 0)), int(getattr(message, "height", 0))
    if roi is not None and roi.width and roi.height:
        width, height = int(roi.width), int(roi.height)
        intrinsic[0, 2] -= int(roi.x_offset)
        intrinsic[1, 2] -= int(roi.y_offset)
    for axis, binning in enumerate((getattr(message, "binning_x", 0), getattr(message, "binning_y", 0))):
        if binning > 1:
            intrinsic[axis, axis] /= binning
            # Pixels count from the middle of the first one, which moves by half of what is merged.
            intrinsic[axis, 2] = (intrinsic[axis, 2] + 0.5) / binning - 0.5
    return width // max(1, int(getattr(message, "binning_x", 0))), height // max(
        1, int(getattr(message, "binning_y", 0))
    )


def _lower_case(message: object) -> dict[str, NDArray[np.float64]]:
    """K, D and P, which ROS 1 writes in capitals and ROS 2 does not."""
    return {name: np.asarray(getattr(message, name, getattr(message, name.upper(), ()))) for name in "kdp"}
