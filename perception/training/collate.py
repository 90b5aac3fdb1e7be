"""Training frames to one padded batch on the CPU."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel, Projection
from perception.models.boxes import BOX_FIELDS
from perception.models.lenses import NO_LIMIT as NO_LIMIT
from perception.models.lenses import camera_vector as camera_vector
from perception.models.preprocess import LIDAR_FIELDS, RADAR_FIELDS
from perception.training.batch import CAMERA_FIELDS, RAY_STRIDE, TrainingBatch
from perception.training.frames import TrainingFrame

F32 = NDArray[np.float32]

_CACHED_CALIBRATIONS = 256


def collate(frames: Sequence[TrainingFrame], config: ModelConfig, max_boxes: int) -> TrainingBatch:
    """Join frames into one batch, padded to the most cameras, lidars, points and objects among them.

    Sweeps and scans above the cap of `config` are thinned evenly, as the service does it; of more than `max_boxes`
    objects the nearest stay. Raises ValueError for no frames, and for one whose arrays do not fit `config`.
    """
    if not frames:
        raise ValueError("a batch needs at least one frame")
    for frame in frames:
        _check(frame, config)
    return TrainingBatch(
        **_cameras(frames, config),
        **_lidars(frames, config.lidar.max_points),
        **_radars(frames, config.radar.max_points),
        **_objects(frames, max_boxes),
        **_ways(frames, config.bev_cells),
    )


def ray_map(camera: CameraModel) -> F32:
    """Unit rays (H / 4, W / 4, 3) in camera axes through every fourth pixel, from pixel 1.5."""
    first = (RAY_STRIDE - 1) / 2
    v, u = np.mgrid[first : camera.height_px : RAY_STRIDE, first : camera.width_px : RAY_STRIDE]
    return camera.rays(np.stack([u.ravel(), v.ravel()], axis=1)).astype(np.float32).reshape(*u.shape, 3)


def _check(frame: TrainingFrame, config: ModelConfig) -> None:
    image, expected = config.image, (3, config.image.height_px, config.image.width_px)
    name = f"frame {frame.reference_ns} of {frame.drive_id}"
    if len(frame.images) and frame.images.shape[1:] != expected:
        raise ValueError(f"{name}: images are {frame.images.shape[1:]}, but {config.name} takes {expected}")
    for camera in frame.cameras:
        if (camera.height_px, camera.width_px) != (image.height_px, image.width_px):
            raise ValueError(f"{name}: a camera model is of {camera.width_px}x{camera.height_px}, not network pixels")
    if len(frame.path_m) != config.path_steps:
        raise ValueError(f"{name}: its path has {len(frame.path_m)} steps, but {config.name} takes {config.path_steps}")
    if frame.drivable is not None and frame.drivable.shape != (config.bev_cells, config.bev_cells):
        raise ValueError(f"{name}: drivable is {frame.drivable.shape}, but {config.name} has {config.bev_cells} cells")


@functools.lru_cache(maxsize=_CACHED_CALIBRATIONS)
def _calibration(
    size: tuple[int, int], projection: Projection, xi: float, intrinsic: bytes, distortion: bytes
) -> tuple[F32, F32]:
    """Vector (without top_px) and ray map of a camera, by value: frames from a store share no objects."""
    camera = CameraModel(
        width_px=size[0],
        height_px=size[1],
        intrinsic=np.frombuffer(intrinsic).reshape(3, 3),
        projection=projection,
        distortion=np.frombuffer(distortion),
        xi=xi,
    )
    return camera_vector(camera, 0.0), ray_map(camera)


def _cameras(frames: Sequence[TrainingFrame], config: ModelConfig) -> dict[str, Tensor]:
    batch, most = len(frames), max(len(frame.cameras) for frame in frames)
    height, width = config.image.height_px, config.image.width_px
    images = np.zeros((batch, most, 3, height, width), dtype=np.uint8)
    cameras = np.zeros((batch, most, len(CAMERA_FIELDS)), dtype=np.float32)
    # Padding is a camera too, so that every formula has a finite value there.
    cameras[..., [CAMERA_FIELDS.index(name) for name in ("fx", "fy", "limit")]] = 1.0
    rays = np.zeros((batch, most, height // RAY_STRIDE, width // RAY_STRIDE, 3), dtype=np.float32)
    rays[..., 2] = 1.0
    poses = np.tile(np.eye(4, dtype=np.float32), (batch, most, 1, 1))
    is_present = np.zeros((batch, most), dtype=np.bool_)
    age = np.zeros((batch, most), dtype=np.float32)
    for i, frame in enumerate(frames):
        n = len(frame.cameras)
        images[i, :n], poses[i, :n], age[i, :n] = frame.images, frame.reference_SE3_camera, frame.camera_age_s
        is_present[i, :n] = True
        for j, model in enumerate(frame.cameras):
            intrinsic, distortion = (np.asarray(x, np.float64).tobytes() for x in (model.intrinsic, model.distortion))
            size = (model.width_px, model.height_px)
            cameras[i, j], rays[i, j] = _calibration(size, model.projection, model.xi, intrinsic, distortion)
        cameras[i, :n, CAMERA_FIELDS.index("top_px")] = frame.top_px
    identity = np.tile(np.eye(2, 3, dtype=np.float32), (batch, most, 1, 1))
    return {
        "images": torch.from_numpy(images),
        "camera_present": torch.from_numpy(is_present),
        "cameras": torch.from_numpy(cameras),
        "reference_SE3_camera": torch.from_numpy(poses),
        "image_from_network": torch.from_numpy(identity),
        "ray_map": torch.from_numpy(rays),
        "camera_age_s": torch.from_numpy(age),
    }


def _thin(points: F32, cap: int) -> F32:
    """At most `cap` of the points (P, F), spread evenly over their order."""
    return points if len(points) <= cap else points[(np.arange(cap) * len(points)) // cap]


def _pad(rows: Sequence[F32], fields: int) -> tuple[F32, NDArray[np.int64]]:
    """Clouds (p, F) each to (len(rows), P, F), zeros behind the count (len(rows),)."""
    count = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.zeros((len(rows), int(count.max(initial=0)), fields), dtype=np.float32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded, count


def _lidars(frames: Sequence[TrainingFrame], cap: int) -> dict[str, Tensor]:
    batch, most = len(frames), max(len(frame.lidar_count) for frame in frames)
    age = np.zeros((batch, most), dtype=np.float32)
    is_present = np.zeros((batch, most), dtype=np.bool_)
    sweeps: list[F32] = []
    for i, frame in enumerate(frames):
        lidars = len(frame.lidar_count)
        parts = np.split(frame.lidar_points, np.cumsum(frame.lidar_count)[:-1]) if lidars else []
        sweeps += [_thin(part, cap) for part in parts] + [frame.lidar_points[:0]] * (most - lidars)
        age[i, :lidars], is_present[i, :lidars] = frame.lidar_age_s, True
    points, count = _pad(sweeps, len(LIDAR_FIELDS))
    return {
        "lidar_points": torch.from_numpy(points.reshape(batch, most, *points.shape[1:])),
        "lidar_count": torch.from_numpy(count.reshape(batch, most)),
        "lidar_present": torch.from_numpy(is_present),
        "lidar_age_s": torch.from_numpy(age),
    }


def _radars(frames: Sequence[TrainingFrame], cap: int) -> dict[str, Tensor]:
    points, count = _pad([_thin(frame.radar_points, cap) for frame in frames], len(RADAR_FIELDS))
    return {
        "radar_points": torch.from_numpy(points),
        "radar_count": torch.from_numpy(count),
        "radar_present": torch.tensor([frame.radar_age_s is not None for frame in frames]),
        "radar_age_s": torch.tensor([frame.radar_age_s or 0.0 for frame in frames]),
    }


def _objects(frames: Sequence[TrainingFrame], max_boxes: int) -> dict[str, Tensor]:
    kept = [_nearest(frame.boxes, max_boxes) for frame in frames]
    shape = (len(frames), max(len(rows) for rows in kept))
    classes, attributes = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    boxes = np.zeros((*shape, len(BOX_FIELDS)), dtype=np.float32)
    for i, (frame, rows) in enumerate(zip(frames, kept, strict=True)):
        n = len(rows)
        classes[i, :n], attributes[i, :n] = frame.class_index[rows], frame.attribute_index[rows]
        boxes[i, :n] = frame.boxes[rows]
    return {
        "class_index": torch.from_numpy(classes),
        "boxes": torch.from_numpy(boxes),
        "attribute_index": torch.from_numpy(attributes),
    }


def _nearest(boxes: F32, limit: int) -> NDArray[np.intp]:
    """Rows of the `limit` boxes (M, 10) nearest to the ego, in their order."""
    distance = np.hypot(boxes[:, 0], boxes[:, 1])
    return np.sort(np.argsort(distance, kind="stable")[:limit])


def _ways(frames: Sequence[TrainingFrame], cells: int) -> dict[str, Tensor]:
    drivable = np.zeros((len(frames), cells, cells), dtype=np.float32)
    is_known = np.zeros((len(frames), cells, cells), dtype=np.bool_)
    for i, frame in enumerate(frames):
        if frame.drivable is not None:
            drivable[i], is_known[i] = frame.drivable, True
    return {
        "ego": torch.from_numpy(np.stack([frame.ego for frame in frames]).astype(np.float32)),
        "path_m": torch.from_numpy(np.stack([frame.path_m for frame in frames]).astype(np.float32)),
        "path_known": torch.from_numpy(np.stack([frame.path_known for frame in frames])),
        "target_speed_mps": torch.tensor([frame.target_speed_mps for frame in frames], dtype=torch.float32),
        "drivable": torch.from_numpy(drivable),
        "drivable_known": torch.from_numpy(is_known),
    }
