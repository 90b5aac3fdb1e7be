"""What faults do to payloads: black images, dirt on lenses, blocked sectors, sensors that were knocked askew."""

import zlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.core.errors import PayloadError
from perception.core.geometry import rotation_exp, se3, transform_points
from perception.core.messages import CameraFrame, LidarSweep, RadarScan
from perception.core.rig import SensorRig

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

_QUALITY = 90
_DIRT_BGR = (38.0, 46.0, 54.0)

Points = LidarSweep | RadarScan


def black_out(message: CameraFrame | Points) -> CameraFrame | Points:
    """The same message with nothing in it."""
    if isinstance(message, CameraFrame):
        return replace(message, data=_encode(np.zeros_like(_decode(message))))
    return _keep(message, np.zeros(len(message.points_m), dtype=bool))


def block_camera(message: CameraFrame, region: Sequence[float], opacity: float) -> CameraFrame:
    """Dirt over a region (left, top, right, bottom as shares of the image), soft at its rim and blurred behind."""
    image = _decode(message)
    height, width = image.shape[:2]
    left, top, right, bottom = region
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = np.abs((x / width - (left + right) / 2) / ((right - left) / 2))
    down = np.abs((y / height - (top + bottom) / 2) / ((bottom - top) / 2))
    cover = np.clip((1.0 - np.maximum(across, down)) * 6.0, 0, 1)[:, :, None] * np.float32(opacity)
    blurred = cv2.GaussianBlur(image, (0, 0), max(1.0, width / 60)).astype(np.float32)
    dirt = 0.25 * blurred + 0.75 * np.array(_DIRT_BGR, dtype=np.float32)
    return replace(message, data=_encode((image + (dirt - image) * cover).astype(np.uint8)))


def block_sector(message: Points, sector_rad: NDArray[np.float64], opacity: float, seed: int) -> Points:
    """Lose the returns between two azimuths of the sensor's own frame; with opacity below 1 only a share of them."""
    azimuth = np.arctan2(message.points_m[:, 1], message.points_m[:, 0])
    start, end = sector_rad
    inside = (azimuth - start) % (2 * np.pi) <= (end - start) % (2 * np.pi)
    rng = np.random.default_rng([seed, zlib.crc32(message.sensor.encode()), abs(message.capture_ns)])
    return _keep(message, ~(inside & (rng.random(len(azimuth)) < opacity)))


def overexpose(message: CameraFrame, gain: float) -> CameraFrame:
    """The image with `gain` times the light, clipped at white; of the encoded levels, without their curve."""
    brighter = np.minimum(_decode(message).astype(np.float32) * np.float32(gain), 255.0)
    return replace(message, data=_encode(brighter.astype(np.uint8)))


def blur(message: CameraFrame, sigma_share: float) -> CameraFrame:
    """The image blurred by a Gaussian of `sigma_share` of its width; its noise is lost with it."""
    image = _decode(message)
    soft = cv2.GaussianBlur(image, (0, 0), max(0.3, sigma_share * image.shape[1]))
    return replace(message, data=_encode(np.asarray(soft, dtype=np.uint8)))


def thin(message: Points, keep_share: float, rng: np.random.Generator) -> Points:
    """A random share of the points."""
    return _keep(message, rng.random(len(message.points_m)) < keep_share)


def move_points(message: Points, rotation_deg: ArrayLike, translation_m: ArrayLike) -> Points:
    """Points of a sensor that sits askew: turned by roll, pitch, yaw about its own axes, then moved."""
    moved = se3(rotation_exp(np.radians(np.asarray(rotation_deg, dtype=np.float64))), translation_m)
    return replace(message, points_m=np.ascontiguousarray(transform_points(moved, message.points_m)))


class Remapper:
    """Turns images of a rig's cameras; each camera and angle is worked out once."""

    def __init__(self, rig: SensorRig) -> None:
        self._rig = rig
        self._maps: dict[tuple[str, tuple[float, ...]], tuple[F32, F32]] = {}

    def turn(self, message: CameraFrame, rotation_deg: tuple[float, ...]) -> CameraFrame:
        """The image of a camera turned by roll, pitch, yaw of its body; black where it saw nothing."""
        key = (message.sensor, rotation_deg)
        if key not in self._maps:
            self._maps[key] = self._map(*key)
        columns, rows = self._maps[key]
        turned = cv2.remap(_decode(message), columns, rows, cv2.INTER_LINEAR)
        return replace(message, data=_encode(np.asarray(turned, dtype=np.uint8)))

    def _map(self, sensor: str, rotation_deg: tuple[float, ...]) -> tuple[F32, F32]:
        camera = self._rig[sensor].camera
        if camera is None:
            raise PayloadError(f"{sensor} is no camera")
        roll, pitch, yaw = np.radians(rotation_deg)
        # Camera axes are x right, y down, z forward: its body's x, y, z are z, -x, -y.
        turn = rotation_exp(np.array([-pitch, -yaw, roll]))
        v, u = np.mgrid[: camera.height_px, : camera.width_px]
        rays = camera.rays(np.stack([u.ravel(), v.ravel()], axis=1))
        pixels, is_visible = camera.project(rays @ turn.T)
        pixels[~is_visible] = -1e4
        grid = pixels.astype(np.float32).reshape(camera.height_px, camera.width_px, 2)
        return np.ascontiguousarray(grid[..., 0]), np.ascontiguousarray(grid[..., 1])


def _keep(message: Points, keep: Bool) -> Points:
    n = len(keep)
    changes: dict[str, Any] = {}
    for field in fields(message):
        value = getattr(message, field.name)
        if isinstance(value, np.ndarray) and len(value) == n:
            changes[field.name] = value[keep]
    return replace(message, **changes)


def _decode(message: CameraFrame) -> U8:
    image = cv2.imdecode(np.frombuffer(message.data, dtype=np.uint8), cv2.IMREAD_COLOR) if message.data else None
    if image is None:
        raise PayloadError(f"{message.sensor}: the image cannot be decoded ({len(message.data)} bytes)")
    return np.asarray(image, dtype=np.uint8)


def _encode(image: U8) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return bytes(data)
