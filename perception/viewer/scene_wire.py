"""Scenes as bytes, made small, for the channel beside the results (`queues/sensor_channel`).

A MessagePack map (`SensorPayload`); points as int16 centimetres, images as small JPEGs.
"""

from typing import Annotated

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import QueueError
from perception.core.stages import CameraView
from perception.viewer.scenes import Image, Scene

VERSION = 1
MAX_POINTS = 20_000
IMAGE_WIDTH_PX = 480
JPEG_QUALITY = 70
STEP_M = 0.01
MAX_IMAGE_PX = 4096
RADAR_COLUMNS = 7

Matrix3 = Annotated[list[float], msgspec.Meta(min_length=9, max_length=9)]
Matrix4 = Annotated[list[float], msgspec.Meta(min_length=16, max_length=16)]


class CameraPayload(msgspec.Struct, frozen=True, kw_only=True):
    """One image and how it saw the world; `jpeg` is smaller than width_px by height_px."""

    sensor: str
    width_px: int
    height_px: int
    intrinsic: Matrix3
    projection: Projection
    distortion: Annotated[list[float], msgspec.Meta(max_length=16)]
    xi: float
    reference_SE3_camera: Matrix4
    age_ns: int
    jpeg: bytes


class SensorPayload(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensors saw at the reference time of the result (run_id, sequence).

    lidar_cm: N times 3 int16; intensity: N uint8; radar: M times 7 float32 (point, direction, range rate over ground).
    All little-endian.
    """

    version: int
    run_id: str
    sequence: int
    reference_ns: int
    world_SE3_ego: Matrix4 | None
    cameras: Annotated[list[CameraPayload], msgspec.Meta(max_length=12)]
    lidar_cm: bytes
    intensity: bytes
    radar: bytes


def encode_scene(scene: Scene, run_id: str) -> bytes:
    """The scene without labels and result, with at most `MAX_POINTS` points."""
    keep = slice(None, None, max(1, -(-len(scene.lidar_m) // MAX_POINTS)))
    limit = np.iinfo(np.int16).max
    steps = np.clip((scene.lidar_m[keep] / STEP_M).round(), -limit, limit)
    radar = np.c_[scene.radar_m, scene.radar_direction, scene.radial_mps]
    payload = SensorPayload(
        version=VERSION,
        run_id=run_id,
        sequence=scene.sequence,
        reference_ns=scene.reference_ns,
        world_SE3_ego=None if scene.world_SE3_ego is None else scene.world_SE3_ego.ravel().tolist(),
        cameras=[_camera(view, image) for view, image in scene.cameras],
        lidar_cm=steps.astype("<i2").tobytes(),
        intensity=(np.clip(scene.intensity[keep], 0, 1) * 255).astype(np.uint8).tobytes(),
        radar=radar.astype("<f4").tobytes(),
    )
    return msgspec.msgpack.encode(payload)


def decode_scene(data: bytes) -> tuple[str, Scene]:
    """The run and the scene in a payload; nothing in it is trusted. Raises QueueError where it is none."""
    try:
        payload = msgspec.msgpack.decode(data, type=SensorPayload)
        return payload.run_id, _scene(payload)
    except (msgspec.DecodeError, ValueError, cv2.error) as error:
        raise QueueError(f"a payload of {len(data)} bytes holds no sensors: {error}") from None


def _scene(payload: SensorPayload) -> Scene:
    """Raises ValueError where the parts do not fit together."""
    if payload.version != VERSION:
        raise ValueError(f"it has version {payload.version}; this reader knows {VERSION}")
    radar = _rows(payload.radar, "<f4", RADAR_COLUMNS)
    lidar = _rows(payload.lidar_cm, "<i2", 3) * np.float32(STEP_M)
    intensity = np.frombuffer(payload.intensity, np.uint8).astype(np.float32) / np.float32(255)
    if len(intensity) != len(lidar):
        raise ValueError(f"{len(lidar)} points have {len(intensity)} intensities")
    return Scene(
        sequence=payload.sequence,
        reference_ns=payload.reference_ns,
        world_SE3_ego=None if payload.world_SE3_ego is None else _pose(payload.world_SE3_ego),
        cameras=[_view(camera) for camera in payload.cameras],
        lidar_m=lidar,
        intensity=intensity,
        radar_m=radar[:, :3],
        radar_direction=radar[:, 3:6],
        radial_mps=radar[:, 6],
    )


def _camera(view: CameraView, image: Image) -> CameraPayload:
    width = min(IMAGE_WIDTH_PX, image.shape[1])
    small = cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA)
    camera = view.camera
    return CameraPayload(
        sensor=view.sensor,
        width_px=camera.width_px,
        height_px=camera.height_px,
        intrinsic=camera.intrinsic.ravel().tolist(),
        projection=camera.projection,
        distortion=camera.distortion.tolist(),
        xi=camera.xi,
        reference_SE3_camera=view.reference_SE3_camera.ravel().tolist(),
        age_ns=view.age_ns,
        jpeg=cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes(),
    )


def _view(payload: CameraPayload) -> tuple[CameraView, Image]:
    camera = CameraModel(
        width_px=payload.width_px,
        height_px=payload.height_px,
        intrinsic=np.array(payload.intrinsic).reshape(3, 3),
        projection=payload.projection,
        distortion=np.array(payload.distortion, dtype=np.float64),
        xi=payload.xi,
    )
    image = cv2.imdecode(np.frombuffer(payload.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None or max(image.shape) > MAX_IMAGE_PX:
        raise ValueError(f"the image of {payload.sensor} cannot be decoded")
    view = CameraView(
        sensor=payload.sensor,
        camera=camera,
        reference_SE3_camera=_pose(payload.reference_SE3_camera),
        age_ns=payload.age_ns,
    )
    return view, np.asarray(image, dtype=np.uint8)


def _pose(values: list[float]) -> NDArray[np.float64]:
    pose = np.array(values, dtype=np.float64).reshape(4, 4)
    if not np.isfinite(pose).all():
        raise ValueError("a pose is not finite")
    return pose


def _rows(data: bytes, dtype: str, columns: int) -> NDArray[np.float32]:
    rows = np.frombuffer(data, dtype=dtype).reshape(-1, columns).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("a point is not finite")
    return rows
