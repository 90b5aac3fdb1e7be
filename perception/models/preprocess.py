"""Sensor payloads to the fixed-size arrays that the encoders take: decoded images, packed points."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ImageConfig, ModelConfig
from perception.core.errors import PayloadError
from perception.models.image_header import image_size

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

LIDAR_FIELDS: Final = ("x_m", "y_m", "z_m", "intensity", "offset_s")
RADAR_FIELDS: Final = ("x_m", "y_m", "z_m", "rcs_dbsm", "vx_mps", "vy_mps", "offset_s")

Z_RANGE_M: Final = (-5.0, 7.0)
"""Heights above the ego's ground that the network looks at; bridges and what hangs under them are left out."""

MAX_RCS_DBSM: Final = 80.0
MAX_SPEED_MPS: Final = 80.0
MAX_OFFSET_S: Final = 1.0

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTransform:
    """Full-size pixels to network pixels: scaled to the network's width, aligned at the bottom.

    An image that is too tall loses rows at the top (sky); one that is too short gets black rows there.
    Pixel centres are at whole numbers on both sides, so that `network = (full + 0.5) * scale + offset - 0.5`.
    """

    scale_x: float
    scale_y: float
    offset_y_px: int
    resized_height_px: int
    image: ImageConfig

    @classmethod
    def of(cls, image: ImageConfig, width_px: int, height_px: int) -> "ImageTransform":
        """The transform of an image of `width_px` x `height_px` full-size pixels."""
        scale = image.width_px / width_px
        resized = max(1, round(height_px * scale))
        return cls(
            scale_x=scale,
            scale_y=resized / height_px,
            offset_y_px=image.height_px - resized,
            resized_height_px=resized,
            image=image,
        )

    def to_network(self, pixels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Full-size pixels (N, 2) to network pixels (N, 2)."""
        scale = np.array([self.scale_x, self.scale_y])
        moved: NDArray[np.floating] = (pixels + 0.5) * scale + np.array([0.0, self.offset_y_px]) - 0.5
        return moved

    def to_full(self, pixels: NDArray[np.floating]) -> NDArray[np.floating]:
        """Network pixels (N, 2) to full-size pixels (N, 2)."""
        scale = np.array([self.scale_x, self.scale_y])
        moved: NDArray[np.floating] = (pixels + 0.5 - np.array([0.0, self.offset_y_px])) / scale - 0.5
        return moved


def decode_image(data: bytes, image: ImageConfig, width_px: int, height_px: int) -> U8:
    """Decode a JPEG or PNG to (3, H, W) uint8 RGB at the network's size.

    The decoder itself reduces a JPEG by 2, 4 or 8, as far as no detail that the network sees is lost. EXIF rotation
    is ignored: the calibration is of the sensor's rows and columns. width_px, height_px: size that the calibration
    is for. Raises PayloadError where the image is cut off, cannot be decoded, or has another size than that.
    """
    require_size(data, width_px, height_px)
    transform = ImageTransform.of(image, width_px, height_px)
    decoded = decode_reduced(data, image, width_px)
    shrinks = decoded.shape[1] > image.width_px
    resized = cv2.resize(
        decoded,
        (image.width_px, transform.resized_height_px),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    canvas = np.zeros((3, image.height_px, image.width_px), dtype=np.uint8)
    rows = min(image.height_px, transform.resized_height_px)
    canvas[:, image.height_px - rows :] = resized[transform.resized_height_px - rows :, :, ::-1].transpose(2, 0, 1)
    return canvas


def require_size(data: bytes, width_px: int, height_px: int) -> None:
    """Raises PayloadError where an image is cut off, or has another size than its calibration is for."""
    if (found := image_size(data)) != (width_px, height_px):
        raise PayloadError(
            f"image is {found[0]}x{found[1]} but its calibration is for {width_px}x{height_px}; "
            "give the intrinsics of the images as stored"
        )


def decode_reduced(data: bytes, image: ImageConfig, width_px: int) -> U8:
    """The pixels (h, w, 3) BGR of an image `width_px` wide, a JPEG reduced by the decoder as far as no detail that the
    network sees is lost. Raises PayloadError where it cannot be decoded."""
    reduction = max(step for step in _REDUCED if step == 1 or width_px // step >= image.width_px)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise PayloadError(f"image of {len(data)} bytes cannot be decoded: {error}") from None
    if decoded is None:
        raise PayloadError(f"image of {len(data)} bytes cannot be decoded")
    return np.asarray(decoded, dtype=np.uint8)


def pack_points(
    points_ego_m: F32, intensity: F32, offset_s: F32 | None, config: ModelConfig
) -> tuple[F32, NDArray[np.int64]]:
    """Lidar points in the ego frame at the reference time, cropped to the range and padded to a fixed count.

    points_ego_m: (N, 3). intensity: (N,) in 0..1. offset_s: (N,) signed time from the reference, or None.
    Returns points (P, 5) float32 in the order of `LIDAR_FIELDS`, zeros behind the count, and the count () int64.
    Points that are not finite are left out. Above the cap every n-th point stays, spread evenly over the sweep.
    """
    times = np.zeros(len(points_ego_m), dtype=np.float32) if offset_s is None else offset_s
    columns = (
        np.clip(np.nan_to_num(intensity), 0.0, 1.0),
        np.clip(np.nan_to_num(times), -MAX_OFFSET_S, MAX_OFFSET_S),
    )
    return _pack(points_ego_m, columns, config.range_m, config.lidar.max_points)


def pack_radar(
    points_ego_m: F32, rcs_dbsm: F32, velocity_mps: F32, offset_s: F32 | None, config: ModelConfig
) -> tuple[F32, NDArray[np.int64]]:
    """Radar returns of all radars in the ego frame at the reference time; crop and padding as for lidar points.

    points_ego_m: (N, 3). rcs_dbsm: (N,). velocity_mps: (N, 2) compensated range rate along the line of sight, as a
    vector in ego axes. offset_s: (N,) or None. Returns points (P, 7) float32 in the order of `RADAR_FIELDS` and the
    count () int64. A return without a finite RCS or velocity counts as one of 0.
    """
    times = np.zeros(len(points_ego_m), dtype=np.float32) if offset_s is None else offset_s
    velocity = np.clip(np.nan_to_num(velocity_mps), -MAX_SPEED_MPS, MAX_SPEED_MPS)
    columns = (
        np.clip(np.nan_to_num(rcs_dbsm), -MAX_RCS_DBSM, MAX_RCS_DBSM),
        velocity[:, 0],
        velocity[:, 1],
        np.clip(np.nan_to_num(times), -MAX_OFFSET_S, MAX_OFFSET_S),
    )
    return _pack(points_ego_m, columns, config.range_m, config.radar.max_points)


def _pack(
    points: F32, columns: tuple[NDArray[np.floating], ...], range_m: float, cap: int
) -> tuple[F32, NDArray[np.int64]]:
    """Crop, thin and pad points (N, 3) with their further columns (N,) to (cap, 3 + len(columns))."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    # A comparison with NaN is False, so that what is not finite is left out here too.
    is_inside = (np.abs(x) < range_m) & (np.abs(y) < range_m) & (z > Z_RANGE_M[0]) & (z < Z_RANGE_M[1])
    kept = np.flatnonzero(is_inside)
    if len(kept) > cap:
        kept = kept[(np.arange(cap) * len(kept)) // cap]
    packed = np.zeros((cap, 3 + len(columns)), dtype=np.float32)
    packed[: len(kept), :3] = points[kept]
    for place, column in enumerate(columns, start=3):
        packed[: len(kept), place] = column[kept]
    return packed, np.array(len(kept), dtype=np.int64)
