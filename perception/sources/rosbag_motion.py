"""Where the ego is, from `nav_msgs/Odometry` or from `/tf`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.messages import EgoState
from perception.sources.rosbag_frames import frame_name, rigid, transform_of
from perception.sources.rosbag_types import ODOMETRY

F64 = NDArray[np.float64]

MAX_RATE = 1e4
"""Neither metres a second nor radians a second go so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MotionPlan:
    """Where poses come from. child: the frame whose pose is told, parent: in which; child_SE3_ego (4, 4)."""

    topic: str
    type_name: str
    parent: str
    child: str
    child_SE3_ego: F64


def stamped_poses(plan: MotionPlan, message: Any) -> list[Any]:
    """What in a message tells a pose: the odometry itself, or each transform of the frame that is followed."""
    if plan.type_name == ODOMETRY:
        return [message]
    return [
        stamped
        for stamped in message.transforms
        if frame_name(stamped.child_frame_id) == plan.child and frame_name(stamped.header.frame_id) == plan.parent
    ]


def ego_state(plan: MotionPlan, stamped: Any, capture_ns: int, arrival_ns: int) -> EgoState:
    """The ego's pose and, from odometry, its motion. Raises PayloadError where a number is not finite.

    A twist of zeros throughout is taken as none: many write no other, and standing still follows from the poses.
    """
    if plan.type_name != ODOMETRY:
        pose = transform_of(stamped.transform) @ plan.child_SE3_ego
        return EgoState(capture_ns=capture_ns, arrival_ns=arrival_ns, world_SE3_ego=pose)
    world_SE3_child = rigid(stamped.position_m, stamped.quaternion_xyzw)
    twist = (*stamped.linear_mps, *stamped.angular_radps)
    if not all(abs(value) < MAX_RATE for value in twist):
        raise PayloadError(f"{plan.topic}: a velocity is not finite or too large")
    ego_R_child = plan.child_SE3_ego[:3, :3].T
    angular_ego = ego_R_child @ stamped.angular_radps
    # The ego's origin moves with the frame's, and around it.
    velocity = ego_R_child @ (stamped.linear_mps + _cross(stamped.angular_radps, plan.child_SE3_ego[:3, 3]))
    is_known = any(twist)
    return EgoState(
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        world_SE3_ego=world_SE3_child @ plan.child_SE3_ego,
        velocity_mps=velocity[:2] if is_known else None,
        yaw_rate_radps=float(angular_ego[2]) if is_known else None,
    )


def _cross(a: Sequence[float], b: F64) -> F64:
    # Odometry comes 100 times a second, and np.cross takes longer for one pair than all else.
    (ax, ay, az), (bx, by, bz) = a, b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
