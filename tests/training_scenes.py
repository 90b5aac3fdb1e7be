"""Made-up training frames: any cameras, boxes with points inside them, a path and a road."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.geometry import rotation_from_yaw, se3, se3_from_yaw
from perception.core.rig import SensorRig
from perception.models.boxes import encode_boxes
from perception.models.preprocess import ImageTransform
from perception.models.tensors import EGO_FIELDS
from perception.training.frames import TrainingFrame
from tests.model_samples import TINY

Float = NDArray[np.float64]

OPTICAL_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
POINTS_A_BOX = 40


def in_network_pixels(camera: CameraModel, config: ModelConfig = TINY) -> tuple[CameraModel, float]:
    """The camera as the network's image sees it, and the first row with picture in it."""
    transform = ImageTransform.of(config.image, camera.width_px, camera.height_px)
    intrinsic = camera.intrinsic.copy()
    intrinsic[0] *= transform.scale_x
    intrinsic[1] *= transform.scale_y
    intrinsic[:2, 2] = transform.to_network(camera.intrinsic[None, :2, 2])[0]
    moved = replace(camera, width_px=config.image.width_px, height_px=config.image.height_px, intrinsic=intrinsic)
    return moved, float(max(0, transform.offset_y_px))


def mounts(cameras: int) -> Float:
    """Poses (N, 4, 4) of cameras 1.5 m up that look all around."""
    yaws = np.arange(cameras) * 2 * np.pi / max(cameras, 1)
    return np.stack([se3_from_yaw(yaw) @ se3(OPTICAL_AXES, [1.0, 0.0, 1.5]) for yaw in yaws] or [np.eye(4)])[:cameras]


def rig_views(rig: SensorRig) -> tuple[tuple[CameraModel, ...], Float]:
    """The cameras of a rig in full-size pixels, and their mounts (N, 4, 4)."""
    sensors = [sensor for sensor in rig.sensors if sensor.camera is not None]
    poses = np.stack([sensor.ego_SE3_sensor for sensor in sensors])
    return tuple(sensor.camera for sensor in sensors if sensor.camera is not None), poses


def pinhole(focal_px: float = 180.0, config: ModelConfig = TINY) -> CameraModel:
    """A pinhole camera in network pixels."""
    width, height = config.image.width_px, config.image.height_px
    intrinsic = np.array([[focal_px, 0.0, width / 2 - 0.5], [0.0, focal_px, height / 3], [0.0, 0.0, 1.0]])
    return CameraModel(width_px=width, height_px=height, intrinsic=intrinsic)


def make_frame(
    seed: int,
    *,
    cameras: tuple[CameraModel, ...] | None = None,
    poses: Float | None = None,
    top_px: Float | None = None,
    objects: int = 8,
    lidars: int = 1,
    radar: bool = True,
    clutter: int = 500,
    config: ModelConfig = TINY,
) -> TrainingFrame:
    """One frame with `objects` boxes between 5 and 45 m, each with points in it, and clutter points far from them.

    The first `POINTS_A_BOX * objects` points of each sweep lie in the boxes, as many in each; so do the first
    `objects` radar returns, with the objects' velocity.
    """
    rng = np.random.default_rng(seed)
    models = (pinhole(config=config),) * 4 if cameras is None else cameras
    boxes, centers = _boxes(rng, objects)
    inside = np.concatenate([_inside(rng, box, POINTS_A_BOX) for box in boxes] or [np.zeros((0, 3))])
    sweep = np.concatenate([inside, _clutter(rng, clutter)])
    points = np.concatenate(
        [np.concatenate([sweep, rng.random((len(sweep), 2))], axis=1)] * lidars or [np.zeros((0, 5))]
    )
    returns = np.zeros((objects if radar else 0, 7))
    if radar:
        returns[:, :3], returns[:, 4:6] = centers, boxes[:, 8:10]
    ego = np.zeros(len(EGO_FIELDS))
    ego[:9] = 8.0, 0.1, 13.9, 1.0, 25.0, 1.0, 24.0, 3.0, 1.0
    ego[EGO_FIELDS.index("command_left")] = ego[EGO_FIELDS.index("signal_green")] = 1.0
    steps = np.arange(1, config.path_steps + 1) * config.path_step_s
    shape = (len(models), 3, config.image.height_px, config.image.width_px)
    return TrainingFrame(
        drive_id="made-up",
        reference_ns=seed,
        images=rng.integers(0, 256, shape, dtype=np.uint8),
        cameras=models,
        top_px=np.zeros(len(models), np.float32) if top_px is None else top_px.astype(np.float32),
        reference_SE3_camera=(mounts(len(models)) if poses is None else poses).astype(np.float32),
        camera_age_s=rng.uniform(0, 0.05, len(models)).astype(np.float32),
        lidar_points=points.astype(np.float32),
        lidar_count=np.full(lidars, len(sweep), dtype=np.int64),
        lidar_age_s=np.zeros(lidars, dtype=np.float32),
        radar_points=returns.astype(np.float32),
        radar_age_s=0.02 if radar else None,
        ego=ego.astype(np.float32),
        class_index=rng.integers(0, 10, objects),
        boxes=boxes,
        attribute_index=rng.integers(0, 8, objects),
        visible_share=np.ones(objects, dtype=np.float32),
        path_m=np.stack([8.0 * steps, 0.4 * steps**2], axis=1).astype(np.float32),
        path_known=np.ones(config.path_steps, dtype=np.bool_),
        target_speed_mps=8.5,
        drivable=None,
    )


def _boxes(rng: np.random.Generator, objects: int) -> tuple[NDArray[np.float32], Float]:
    azimuth = rng.uniform(0, 2 * np.pi, 1) + np.arange(objects) * 2.4  # the golden angle: no two overlap
    distance = 6.0 + np.arange(objects) * (38.0 / max(objects, 1))
    size = rng.uniform([1.0, 0.8, 0.8], [4.0, 2.0, 2.0], (objects, 3))
    height = size[:, 2] / 2
    center = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height], axis=1)
    yaw, velocity = rng.uniform(-np.pi, np.pi, objects), rng.normal(0, 4, (objects, 2))
    return encode_boxes(center, size, yaw, velocity), center


def _inside(rng: np.random.Generator, box: NDArray[np.float32], count: int) -> Float:
    """Points (count, 3) in a box (10,)."""
    local = rng.uniform(-0.45, 0.45, (count, 3)) * np.exp(box[3:6])
    placed: Float = local @ rotation_from_yaw(float(np.arctan2(box[6], box[7]))).T + box[:3]
    return placed


def _clutter(rng: np.random.Generator, count: int) -> Float:
    """Ground points (count, 3) below all boxes."""
    xy = rng.uniform(-50, 50, (count, 2))
    return np.concatenate([xy, np.full((count, 1), -0.3)], axis=1)
