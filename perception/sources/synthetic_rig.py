"""The rig of the synthetic drive: the sensors of nuScenes, their names and fields of view, a quarter of the pixels."""

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.geometry import rotation_from_yaw, se3
from perception.core.rig import Modality, Sensor, SensorRig

WIDTH_PX, HEIGHT_PX = 400, 225
CAMERA_HZ, LIDAR_HZ, RADAR_HZ = 12.0, 20.0, 13.0

# Position in the ego frame (m), yaw (degrees), focal length (px).
_CAMERAS = {
    "CAM_FRONT": ((1.70, 0.0, 1.51), 0.0, 316.0),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -55.0, 316.0),
    "CAM_BACK_RIGHT": ((1.03, -0.48, 1.56), -110.0, 316.0),
    "CAM_BACK": ((0.03, 0.0, 1.57), 180.0, 202.0),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.58), 110.0, 316.0),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.0, 316.0),
}
_LIDARS = {"LIDAR_TOP": ((0.94, 0.0, 1.84), -90.0)}
_RADARS = {
    "RADAR_FRONT": ((3.41, 0.0, 0.5), 0.0),
    "RADAR_FRONT_LEFT": ((2.42, 0.8, 0.5), 90.0),
    "RADAR_FRONT_RIGHT": ((2.42, -0.8, 0.5), -90.0),
    "RADAR_BACK_LEFT": ((-0.56, 0.62, 0.5), 175.0),
    "RADAR_BACK_RIGHT": ((-0.56, -0.62, 0.5), -175.0),
}

Float = NDArray[np.float64]


def synthetic_rig() -> SensorRig:
    """Six cameras of 400x225 pixels at 12 Hz, one 32-beam lidar at 20 Hz (x right, y forward), five radars at 13 Hz."""
    sensors = [
        Sensor(
            name=name,
            modality=Modality.CAMERA,
            ego_SE3_sensor=se3(_camera_rotation(np.radians(yaw)), position),
            frequency_hz=CAMERA_HZ,
            camera=_camera(focal_px),
        )
        for name, (position, yaw, focal_px) in _CAMERAS.items()
    ]
    for mounts, modality, rate in ((_LIDARS, Modality.LIDAR, LIDAR_HZ), (_RADARS, Modality.RADAR, RADAR_HZ)):
        sensors += [
            Sensor(
                name=name,
                modality=modality,
                ego_SE3_sensor=se3(rotation_from_yaw(np.radians(yaw)), position),
                frequency_hz=rate,
            )
            for name, (position, yaw) in mounts.items()
        ]
    return SensorRig(sensors=tuple(sensors))


def _camera_rotation(yaw_rad: float) -> Float:
    """ego_R_camera of a level camera that looks along `yaw_rad`."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])


def _camera(focal_px: float) -> CameraModel:
    intrinsic = np.array([[focal_px, 0.0, (WIDTH_PX - 1) / 2], [0.0, focal_px, (HEIGHT_PX - 1) / 2], [0.0, 0.0, 1.0]])
    return CameraModel(width_px=WIDTH_PX, height_px=HEIGHT_PX, intrinsic=intrinsic)
