"""A drive that is computed, not recorded: for demonstrations and tests, exact in its geometry, the same for a seed.

Whatever is asked of it is made when it is asked for, from the seed and the time alone; nothing is kept.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import LatencyConfig
from perception.core.geometry import invert, quaternion_from_yaw, rotation_from_yaw, transform_points, yaw_of
from perception.core.labels import Labels, points_in_box
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    Command,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    SweepMotion,
)
from perception.core.rig import Modality, Sensor, SensorRig
from perception.core.taxonomy import CLASSES
from perception.sources.synthetic_camera import Painter, lane_marks
from perception.sources.synthetic_ranging import BoxesAt, LidarPattern, scan_radar
from perception.sources.synthetic_rig import synthetic_rig
from perception.sources.synthetic_world import EGO_SPEED_MPS, EGO_YAW_RATE_RADPS, KINDS, make_world

START_NS = 1_700_000_000_000_000_000
EGO_HZ = 50.0
LABEL_HZ = 2.0
LABEL_RANGE_M = 60.0
SPEED_LIMIT_MPS = 50 / 3.6

F64 = NDArray[np.float64]


class SyntheticSource:
    """Boxes of the ten classes around an ego on a gentle arc.

    rig: any sensors (cameras must be pinholes), default `synthetic_rig()`; their rates and offsets are kept.
    Labels come at 2 Hz, at captures of the first lidar (else camera, else radar). Times are whole microseconds.
    Raises ValueError where `duration_s` is not positive, DriveError where a camera is no pinhole.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        duration_s: float = 5.0,
        rig: SensorRig | None = None,
        latency: LatencyConfig | None = None,
    ) -> None:
        if not duration_s > 0:
            raise ValueError(f"duration_s must be positive, got {duration_s}")
        self._seed = seed
        self._duration_s = duration_s
        self._rig = rig or synthetic_rig()
        self._latency = latency or LatencyConfig()
        self._world = make_world(np.random.default_rng(seed), duration_s)
        self._marks_world_m = lane_marks(self._world.world_SE3_start, duration_s * EGO_SPEED_MPS)
        self._lidars = {s.name: LidarPattern(s.ego_SE3_sensor) for s in self._rig.of(Modality.LIDAR)}
        self._painters = {
            s.name: Painter(s.name, s.camera, s.ego_SE3_sensor) for s in self._rig.sensors if s.camera is not None
        }
        reference = next(s for modality in _REFERENCE_ORDER for s in self._rig.of(modality))
        every = max(1, round(reference.frequency_hz / LABEL_HZ))
        self._label_times_ns = tuple(self._captures_ns(reference)[::every])

    @property
    def drive_id(self) -> str:
        return f"synthetic/{self._seed}"

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"a computed drive of {self._duration_s:g} s, seed {self._seed}",)

    @property
    def span_ns(self) -> tuple[int, int]:
        plan = self._plan()
        return min(START_NS, plan[0][0]), plan[-1][0]

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        """Capture times of the reference sensor that are labelled, rising."""
        return self._label_times_ns

    def messages(self) -> Iterator[AnyMessage]:
        plan = self._plan()
        first_ns = min(START_NS, plan[0][0])
        yield RouteCommand(
            capture_ns=first_ns,
            arrival_ns=first_ns,
            command=Command.FOLLOW,
            speed_limit_mps=SPEED_LIMIT_MPS,
        )
        for arrival_ns, capture_ns, name, number in plan:
            yield self._sense(name, number, capture_ns, arrival_ns) if name else self._ego(capture_ns, arrival_ns)

    def labels(self, reference_ns: int) -> Labels | None:
        """The boxes within 60 m at a keyframe; points are those of all lidars and radars captured nearest to it."""
        if reference_ns not in self.label_times_ns:
            return None
        everything = self._boxes(reference_ns)
        near = np.flatnonzero(np.linalg.norm(everything.center_m[:, :2], axis=1) < LABEL_RANGE_M)
        boxes = _rows(everything, near)
        return Labels(
            reference_ns=reference_ns,
            category=tuple(KINDS[CLASSES[index]].category for index in boxes.class_index),
            class_index=boxes.class_index,
            center_m=boxes.center_m,
            size_m=boxes.size_m,
            quaternion_wxyz=quaternion_from_yaw(boxes.yaw_rad),
            velocity_mps=boxes.velocity_mps,
            attribute_index=self._world.attribute_index[near],
            track_id=tuple(f"{CLASSES[self._world.class_index[i]]}-{i}" for i in near),
            num_lidar_points=self._count(boxes, reference_ns, Modality.LIDAR),
            num_radar_points=self._count(boxes, reference_ns, Modality.RADAR),
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _plan(self) -> list[tuple[int, int, str, int]]:
        """Arrival, capture, sensor (empty: the ego) and number of every message but the route, in order."""
        delay_ms = {
            Modality.CAMERA: self._latency.camera_ms,
            Modality.LIDAR: self._latency.lidar_ms,
            Modality.RADAR: self._latency.radar_ms,
        }
        plan = [
            (capture_ns + round(delay_ms[sensor.modality] * 1e6), capture_ns, sensor.name, number)
            for sensor in self._rig.sensors
            for number, capture_ns in enumerate(self._captures_ns(sensor))
        ]
        ego_delay_ns = round(self._latency.ego_ms * 1e6)
        ego_ns = _ticks_ns(EGO_HZ, self._duration_s)
        plan += [(capture_ns + ego_delay_ns, capture_ns, "", number) for number, capture_ns in enumerate(ego_ns)]
        return sorted(plan)

    def _captures_ns(self, sensor: Sensor) -> list[int]:
        offset_ns = round(sensor.offset_ns / 1000) * 1000
        return [time_ns + offset_ns for time_ns in _ticks_ns(sensor.frequency_hz, self._duration_s)]

    def _pose(self, time_ns: int) -> F64:
        return self._world.ego_at((time_ns - START_NS) / 1e9)

    def _boxes(self, time_ns: int) -> BoxesAt:
        """All boxes in the ego frame at `time_ns`."""
        ego_SE3_world = invert(self._pose(time_ns))
        return BoxesAt(
            class_index=self._world.class_index,
            center_m=transform_points(ego_SE3_world, self._world.centers_at((time_ns - START_NS) / 1e9)),
            size_m=self._world.size_m,
            yaw_rad=self._world.yaw_rad + float(yaw_of(ego_SE3_world[:3, :3])),
            velocity_mps=self._world.velocity_mps @ ego_SE3_world[:2, :2].T,
        )

    def _sense(self, name: str, number: int, capture_ns: int, arrival_ns: int) -> AnyMessage:
        sensor = self._rig[name]
        boxes = self._boxes(capture_ns)
        if sensor.modality is Modality.CAMERA:
            marks = transform_points(invert(self._pose(capture_ns)), self._marks_world_m)
            data = self._painters[name].paint(boxes, marks)
            return CameraFrame(sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=data)
        index = self._rig.sensors.index(sensor)
        rng = np.random.default_rng((self._seed, index, number))
        if sensor.modality is Modality.LIDAR:
            sweep = self._lidars[name].cast(boxes, rng)
            return LidarSweep(
                sensor=name,
                capture_ns=capture_ns,
                arrival_ns=arrival_ns,
                motion=SweepMotion.COMPENSATED,
                **sweep._asdict(),
            )
        scan = scan_radar(sensor.ego_SE3_sensor, boxes, _EGO_VELOCITY_MPS, EGO_YAW_RATE_RADPS, rng)
        return RadarScan(sensor=name, capture_ns=capture_ns, arrival_ns=arrival_ns, **scan._asdict())

    def _ego(self, capture_ns: int, arrival_ns: int) -> EgoState:
        return EgoState(
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            world_SE3_ego=self._pose(capture_ns),
            velocity_mps=_EGO_VELOCITY_MPS.copy(),
            yaw_rate_radps=EGO_YAW_RATE_RADPS,
        )

    def _count(self, boxes: BoxesAt, time_ns: int, modality: Modality) -> NDArray[np.int64]:
        """Returns (K,) inside each box, moved by the ego's motion to `time_ns`."""
        count = np.zeros(len(boxes.class_index), dtype=np.int64)
        for sensor in self._rig.of(modality):
            captures = self._captures_ns(sensor)
            number = int(np.argmin(np.abs(np.array(captures) - time_ns)))
            message = self._sense(sensor.name, number, captures[number], captures[number])
            assert isinstance(message, LidarSweep | RadarScan)
            moved = invert(self._pose(time_ns)) @ self._pose(captures[number]) @ sensor.ego_SE3_sensor
            points = transform_points(moved, message.points_m.astype(np.float64))
            for i in range(len(count)):
                rotation = rotation_from_yaw(boxes.yaw_rad[i])
                count[i] += np.count_nonzero(points_in_box(points, boxes.center_m[i], boxes.size_m[i], rotation))
        return count


_REFERENCE_ORDER = (Modality.LIDAR, Modality.CAMERA, Modality.RADAR)
_EGO_VELOCITY_MPS = np.array([EGO_SPEED_MPS, 0.0])


def _ticks_ns(frequency_hz: float, duration_s: float) -> list[int]:
    """Times of a sensor from the start of the drive on, in whole microseconds."""
    return [START_NS + round(i * 1e6 / frequency_hz) * 1000 for i in range(int(duration_s * frequency_hz - 1e-9) + 1)]


def _rows(boxes: BoxesAt, keep: NDArray[np.int64]) -> BoxesAt:
    return BoxesAt(**{name: getattr(boxes, name)[keep] for name in BoxesAt.__slots__})
