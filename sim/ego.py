"""The ego vehicle: a kinematic bicycle with limits on steering, acceleration and jerk, integrated exactly.

Its origin is the middle of the rear axle on the ground, like everywhere else; it never drives backwards.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import se3_from_yaw
from sim.scene import EgoPose
from sim.settings import EgoBody

F64 = NDArray[np.float64]

MAX_ARC_S = 0.01
"""Steering is held at its mean over pieces of this length; the error of a lane change is then below a millimetre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleSpec:
    """Size and limits of the ego. Lengths in metres; rear_overhang_m: rear axle to rear bumper.

    max_jerk_mps3 bounds the change of acceleration; emergency_jerk_mps3 the onset of braking beyond the comfortable
    deceleration, because brakes bite faster than a comfortable driver lets them.
    """

    length_m: float = 4.6
    width_m: float = 1.85
    height_m: float = 1.5
    wheelbase_m: float = 2.75
    rear_overhang_m: float = 0.9
    max_steer_rad: float = 0.6
    max_steer_rate_radps: float = 0.7
    max_lateral_mps2: float = 8.0
    """Grip: whatever the wheels ask for, the path bends no tighter than this allows."""
    max_acceleration_mps2: float = 2.5
    comfort_deceleration_mps2: float = 3.0
    max_deceleration_mps2: float = 8.0
    max_jerk_mps3: float = 5.0
    emergency_jerk_mps3: float = 40.0

    @classmethod
    def of(cls, body: EgoBody) -> "VehicleSpec":
        return cls(
            length_m=body.length_m,
            width_m=body.width_m,
            height_m=body.height_m,
            wheelbase_m=body.wheelbase_m,
            rear_overhang_m=body.length_m - body.front_m,
        )

    def curvature(self, steer_rad: float, speed_mps: float) -> float:
        """Bend of the rear axle's path (1/m), left positive."""
        grip = self.max_lateral_mps2 / max(speed_mps * speed_mps, 1e-6)
        return min(max(math.tan(steer_rad) / self.wheelbase_m, -grip), grip)

    @property
    def front_m(self) -> float:
        """Rear axle to front bumper."""
        return self.length_m - self.rear_overhang_m


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveTarget:
    """What a driver asks of the vehicle: front wheel angle (left positive) and acceleration."""

    steer_rad: float
    acceleration_mps2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleState:
    """The ego at one time: rear axle (world), heading, speed along it, and what its actuators do."""

    time_ns: int
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float
    acceleration_mps2: float = 0.0
    steer_rad: float = 0.0

    def yaw_rate_radps(self, spec: VehicleSpec) -> float:
        return self.speed_mps * spec.curvature(self.steer_rad, self.speed_mps)

    def pose(self, spec: VehicleSpec, height_m: float = 0.0) -> EgoPose:
        return EgoPose(
            time_ns=self.time_ns,
            world_SE3_ego=se3_from_yaw(self.yaw_rad, (self.x_m, self.y_m, height_m)),
            velocity_mps=np.array([self.speed_mps, 0.0]),
            yaw_rate_radps=self.yaw_rate_radps(spec),
        )

    def footprint_m(self, spec: VehicleSpec) -> F64:
        """Corners (4, 2) of the body in the world, counter-clockwise from the front left."""
        return footprint(
            np.array([self.x_m, self.y_m]),
            self.yaw_rad,
            (spec.front_m, -spec.rear_overhang_m, spec.width_m / 2),
        )


def footprint(origin_m: F64, yaw_rad: float, extent_m: tuple[float, float, float]) -> F64:
    """Corners (4, 2) of a rectangle reaching `extent_m` (front, rear, half width) from `origin_m` (2,)."""
    front, rear, half = extent_m
    local = np.array([[front, half], [rear, half], [rear, -half], [front, -half]])
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    corners: F64 = local @ np.array([[cos, sin], [-sin, cos]]) + origin_m
    return corners


def state_from_pose(pose: EgoPose) -> VehicleState:
    """A vehicle state at a pose; steering and acceleration start at zero."""
    rotation = pose.world_SE3_ego[:2, :2]
    return VehicleState(
        time_ns=pose.time_ns,
        x_m=float(pose.world_SE3_ego[0, 3]),
        y_m=float(pose.world_SE3_ego[1, 3]),
        yaw_rad=math.atan2(rotation[1, 0], rotation[0, 0]),
        speed_mps=max(0.0, float(pose.velocity_mps[0])),
    )


def drive(state: VehicleState, target: DriveTarget, time_ns: int, spec: VehicleSpec) -> VehicleState:
    """The vehicle at `time_ns`, its actuators moving towards `target` as fast as the limits allow.

    Acceleration ramps at constant jerk and the pose moves along exact arcs, so that cutting the time into several calls
    changes nothing while the steering stands. Raises ValueError where `time_ns` lies before the state.
    """
    if time_ns < state.time_ns:
        raise ValueError(f"cannot drive back from {state.time_ns} ns to {time_ns} ns")
    pieces = max(1, math.ceil((time_ns - state.time_ns) / 1e9 / MAX_ARC_S - 1e-9))
    start_ns = state.time_ns
    for i in range(1, pieces + 1):
        state = _arc(state, target, start_ns + (time_ns - start_ns) * i // pieces, spec)
    return state


def _arc(state: VehicleState, target: DriveTarget, time_ns: int, spec: VehicleSpec) -> VehicleState:
    duration = (time_ns - state.time_ns) / 1e9
    steer, mean_steer = _turn_wheel(state.steer_rad, target.steer_rad, duration, spec)
    distance, speed, acceleration = _advance(state, target.acceleration_mps2, duration, spec)
    angle = distance * spec.curvature(mean_steer, distance / duration if duration > 0 else state.speed_mps)
    chord = distance * float(np.sinc(angle / (2 * np.pi)))
    return replace(
        state,
        time_ns=time_ns,
        x_m=state.x_m + chord * math.cos(state.yaw_rad + angle / 2),
        y_m=state.y_m + chord * math.sin(state.yaw_rad + angle / 2),
        yaw_rad=math.remainder(state.yaw_rad + angle, 2 * math.pi),
        speed_mps=speed,
        acceleration_mps2=acceleration,
        steer_rad=steer,
    )


def _turn_wheel(steer: float, wanted: float, duration: float, spec: VehicleSpec) -> tuple[float, float]:
    """Wheel angle after `duration` and its mean on the way."""
    goal = min(max(wanted, -spec.max_steer_rad), spec.max_steer_rad)
    needed = abs(goal - steer) / spec.max_steer_rate_radps
    if needed >= duration:
        end = steer + math.copysign(spec.max_steer_rate_radps * duration, goal - steer)
        return end, (steer + end) / 2
    return goal, ((steer + goal) / 2 * needed + goal * (duration - needed)) / duration


def _advance(state: VehicleState, wanted: float, duration: float, spec: VehicleSpec) -> tuple[float, float, float]:
    """Distance, speed and acceleration after `duration`: a ramp at constant jerk, then constant, then standstill."""
    goal = min(max(wanted, -spec.max_deceleration_mps2), spec.max_acceleration_mps2)
    start = state.acceleration_mps2
    eases = goal >= -spec.comfort_deceleration_mps2 or goal >= start
    jerk = math.copysign(spec.max_jerk_mps3 if eases else spec.emergency_jerk_mps3, goal - start)
    ramp = min(duration, (goal - start) / jerk)
    distance, speed = _roll(state.speed_mps, start, jerk, ramp)
    reached = start + jerk * ramp if ramp == duration else goal
    if speed > 0.0:
        rest, speed = _roll(speed, reached, 0.0, duration - ramp)
        distance += rest
    if speed <= 0.0:
        return distance, 0.0, max(0.0, reached)
    return distance, speed, reached


def _roll(speed: float, acceleration: float, jerk: float, duration: float) -> tuple[float, float]:
    """Distance and speed after `duration` at constant jerk, or at the standstill that comes first."""
    end = speed + acceleration * duration + jerk * duration * duration / 2
    if end <= 0.0 and (stop := _time_to_stop(speed, acceleration, jerk)) is not None and stop <= duration:
        duration, end = stop, 0.0
    return duration * (speed + duration * (acceleration / 2 + duration * jerk / 6)), max(end, 0.0)


def _time_to_stop(speed: float, acceleration: float, jerk: float) -> float | None:
    """First time at which the speed is zero, None where it never is."""
    if speed <= 0.0 and (acceleration < 0.0 or (acceleration == 0.0 and jerk <= 0.0)):
        return 0.0
    if abs(jerk) < 1e-12:
        return -speed / acceleration if acceleration < 0.0 else None
    root = acceleration * acceleration - 2 * jerk * speed
    if root < 0.0:
        return None
    times = [t for t in ((-acceleration - math.sqrt(root)) / jerk, (-acceleration + math.sqrt(root)) / jerk) if t >= 0]
    return min(times, default=None)
