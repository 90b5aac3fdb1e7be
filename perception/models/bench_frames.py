"""Bundles of a made-up rig, for measuring and for examples."""

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.geometry import se3
from perception.core.messages import Command, Signal
from perception.core.stages import CameraView, FuseRequest

CAMERAS = 6


def surround_request() -> FuseRequest:
    """Six pinhole cameras of 1600x900 pixels and 70 degrees, all around, a lidar and radars."""
    intrinsic = np.array([[1142.5, 0.0, 799.5], [0.0, 1142.5, 449.5], [0.0, 0.0, 1.0]])
    camera = CameraModel(width_px=1600, height_px=900, intrinsic=intrinsic)
    views = tuple(
        CameraView(sensor=f"camera_{i}", camera=camera, reference_SE3_camera=_mount(angle), age_ns=20_000_000)
        for i, angle in enumerate(np.linspace(0.0, 2 * np.pi, CAMERAS, endpoint=False))
    )
    return FuseRequest(
        reference_ns=0,
        cameras=views,
        lidars=("lidar",),
        lidar_age_ns=(0,),
        radar_age_ns=10_000_000,
        speed_mps=10.0,
        yaw_rate_radps=0.05,
        command=Command.FOLLOW,
        speed_limit_mps=13.9,
        signal=Signal.UNKNOWN,
        route_distance_m=None,
    )


def _mount(yaw_rad: float) -> NDArray[np.float64]:
    """reference_SE3_camera of a level camera on the roof that looks along `yaw_rad`."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    rotation = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])  # columns: right, down, forward
    return se3(rotation, [1.0 + 0.5 * cos, 0.5 * sin, 1.6])
