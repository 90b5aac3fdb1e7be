"""One decoded message of a bag to one message of a drive."""

from typing import Any

import numpy as np

from perception.core.errors import PayloadError
from perception.core.messages import CameraFrame, LidarSweep, RadarScan
from perception.core.rig import Modality
from perception.sources.payloads import check_size, image_size
from perception.sources.rosbag_images import compressed_image, raw_image
from perception.sources.rosbag_plan import SensorPlan
from perception.sources.rosbag_points import CloudLayout, cloud_columns, read_points, read_returns
from perception.sources.rosbag_radar import scan_returns, track_returns
from perception.sources.rosbag_types import COMPRESSED_IMAGE, RADAR_SCAN, RADAR_TRACKS


def read_message(
    plan: SensorPlan, message: Any, capture_ns: int, arrival_ns: int, *, is_stamped: bool
) -> CameraFrame | LidarSweep | RadarScan:
    """Read a message of a sensor. is_stamped: `capture_ns` is its own stamp, not the time of the log.

    Raises PayloadError where the payload is broken.
    """
    if plan.sensor.modality is Modality.CAMERA:
        return _frame(plan, message, capture_ns, arrival_ns)
    if plan.sensor.modality is Modality.RADAR:
        return _scan(plan, message, capture_ns, arrival_ns)
    return _sweep(plan, message, capture_ns, arrival_ns, stamp_ns=capture_ns if is_stamped else 0)


def _frame(plan: SensorPlan, message: Any, capture_ns: int, arrival_ns: int) -> CameraFrame:
    name, camera = plan.topic.name, plan.sensor.camera
    data = compressed_image(name, message) if plan.topic.type_name == COMPRESSED_IMAGE else raw_image(name, message)
    if camera is not None:
        check_size(name, image_size(name, data), (camera.width_px, camera.height_px))
    return CameraFrame(sensor=plan.sensor.name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=data)


def _sweep(plan: SensorPlan, message: Any, capture_ns: int, arrival_ns: int, *, stamp_ns: int) -> LidarSweep:
    name = plan.topic.name
    points = read_points(name, cloud_columns(name, message), plan.layout or CloudLayout(), stamp_ns)
    return LidarSweep(
        sensor=plan.sensor.name,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=points.points_m,
        intensity=points.intensity,
        motion=plan.motion,
        point_offset_ns=points.offset_ns,
        ring=points.ring,
    )


def _scan(plan: SensorPlan, message: Any, capture_ns: int, arrival_ns: int) -> RadarScan:
    name = plan.topic.name
    if plan.topic.type_name == RADAR_SCAN:
        returns = scan_returns(name, message)
    elif plan.topic.type_name == RADAR_TRACKS:
        returns = track_returns(name, message)
    else:
        returns = read_returns(name, cloud_columns(name, message))
    if len(returns.radial_mps) and not np.any(np.isfinite(returns.radial_mps)):
        raise PayloadError(f"{name}: no return has a range rate")
    return RadarScan(
        sensor=plan.sensor.name,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=returns.points_m,
        rcs_dbsm=returns.rcs_dbsm,
        radial_mps=returns.radial_mps,
        compensated_mps=returns.compensated_mps,
        is_valid=np.isfinite(returns.radial_mps) & np.isfinite(returns.rcs_dbsm),
    )
