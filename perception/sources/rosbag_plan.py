"""From a mapping and a survey to a rig: which topic is which sensor, with what calibration, and what to note."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, check_mount
from perception.core.errors import DriveError, UsageError
from perception.core.geometry import se3, se3_from_quaternion
from perception.core.messages import EGO_SENSOR, ROUTE_SENSOR, SweepMotion
from perception.core.rig import Modality, Sensor
from perception.sources.rosbag_cameras import camera_from_info, make_camera
from perception.sources.rosbag_frames import EGO_FRAMES, frame_name
from perception.sources.rosbag_motion import MotionPlan
from perception.sources.rosbag_points import CloudLayout, cloud_columns, learn_layout
from perception.sources.rosbag_storage import Topic
from perception.sources.rosbag_survey import Sample, Survey
from perception.sources.rosbag_topics import AUTO, NONE, TF, SensorConfig, TopicsConfig, find_info, is_rectified
from perception.sources.rosbag_types import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    ODOMETRY,
    OLD_TRANSFORMS,
    POINT_CLOUD,
    SENSOR_TYPES,
    TRANSFORMS,
    stamp_ns,
)

F64 = NDArray[np.float64]

NOMINAL_HZ = 10.0

# A camera that looks along x, as bodies do, in axes of images: x right, y down, z ahead.
_BODY_R_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SensorPlan:
    """One sensor and how its messages are read."""

    sensor: Sensor
    topic: Topic
    layout: CloudLayout | None = None
    motion: SweepMotion = SweepMotion.RAW


def sensor_topics(config: TopicsConfig, topics: Mapping[str, Topic]) -> dict[str, SensorConfig]:
    """The sensors of a mapping with their calibration topics. Raises UsageError where it does not fit."""
    sensors: dict[str, SensorConfig] = {}
    for name, sensor in config.sensors.items():
        if name in ("", EGO_SENSOR, ROUTE_SENSOR):
            raise UsageError(f"sensor {name!r}: a sensor needs a name other than {EGO_SENSOR!r} and {ROUTE_SENSOR!r}")
        for topic in filter(None, (sensor.topic, sensor.info)):
            if topic not in topics:
                raise UsageError(f"sensor {name}: no topic {topic!r}; there are {', '.join(sorted(topics))}")
        if others := [other for other, taken in sensors.items() if taken.topic == sensor.topic]:
            raise UsageError(f"sensor {name}: {sensor.topic} is {others[0]} already; a topic is one sensor")
        kind = topics[sensor.topic].type_name
        if kind not in SENSOR_TYPES:
            raise UsageError(f"sensor {name}: {sensor.topic} is {kind}; types of sensors are {', '.join(SENSOR_TYPES)}")
        is_camera = kind in (COMPRESSED_IMAGE, IMAGE)
        if not is_camera and (sensor.info or sensor.camera):
            raise UsageError(f"sensor {name}: `info` and `camera` are for cameras; {sensor.topic} is {kind}")
        if sensor.info and topics[sensor.info].type_name != CAMERA_INFO:
            raise UsageError(
                f"sensor {name}: info: {sensor.info} is {topics[sensor.info].type_name}, not {CAMERA_INFO}"
            )
        info = sensor.info or (find_info(sensor.topic, topics) if is_camera else None)
        sensors[name] = msgspec.structs.replace(sensor, info=info)
    return sensors


class Planner:
    """Makes plans out of what a survey found. `notes` gathers what a user should know."""

    def __init__(self, config: TopicsConfig, topics: Mapping[str, Topic], found: Survey) -> None:
        self._config = config
        self._topics = topics
        self._found = found
        self.notes: list[str] = []
        self._names = tuple(sorted({*found.static.names, *found.moving.names}))
        self._ego_frame = self._find_ego_frame()
        self._frames = found.static.completed(found.moving, self._ego_frame)
        self._ego_SE3_frame = se3(translation=-np.array(config.ego_offset_m))

    def sensor(self, name: str, config: SensorConfig) -> SensorPlan:
        """The plan of one sensor. Raises DriveError where its calibration is missing or broken."""
        topic, sample = self._topics[config.topic], self._found.samples[config.topic]
        modality = _modality(topic, config)
        frame = frame_name(config.frame if config.frame is not None else sample.frame)
        mount = self._mount(name, config, frame)
        if modality is Modality.CAMERA and config.mount is None and mount[2, 2] > 0.9:
            # REP 103 has cameras look along z; this one would look at the sky.
            mount = mount @ se3(_BODY_R_CAMERA)
            self.notes.append(f"{name}: frame {frame!r} is no optical frame: the camera is taken to look along its x")
        period_ns = sample.period_ns
        return SensorPlan(
            sensor=Sensor(
                name=name,
                modality=modality,
                ego_SE3_sensor=mount,
                frequency_hz=1e9 / period_ns if period_ns is not None else NOMINAL_HZ,
                camera=self._camera(name, config) if modality is Modality.CAMERA else None,
            ),
            topic=topic,
            layout=self._layout(name, config, sample) if modality is Modality.LIDAR else None,
            motion=SweepMotion(config.motion),
        )

    def motion(self) -> MotionPlan | None:
        """Where poses come from, None where nothing tells. Raises UsageError where the named topic is not there."""
        wanted = self._config.poses
        if wanted == NONE:
            return None
        odometry = [name for name in sorted(self._found.samples) if self._topics[name].type_name == ODOMETRY]
        if wanted not in (AUTO, TF) and wanted not in odometry:
            raise UsageError(f"poses: no odometry topic {wanted!r}; there are {', '.join(odometry) or 'none'}")
        plan = self._odometry(wanted if wanted != AUTO else odometry[0]) if odometry and wanted != TF else self._tf()
        if plan is None:
            self.notes.append("no odometry and no pose in /tf: the ego motion must be estimated")
        else:
            self.notes.append(f"poses: {plan.topic}, frame {plan.child!r} in {plan.parent!r}")
            others = [name for name in odometry if name != plan.topic]
            self.notes += [f"poses are also in {', '.join(others)}; choose with `poses`"] if others else []
        return plan

    def _find_ego_frame(self) -> str | None:
        if self._config.ego_frame is not None:
            return frame_name(self._config.ego_frame)
        for candidate in EGO_FRAMES:
            if candidate in self._names:
                self.notes.append(
                    f"ego frame: {candidate!r}, taken to lie on the road under the rear axle; if it does not, give "
                    "`ego_offset_m`"
                )
                return candidate
        for name, sample in sorted(self._found.samples.items()):
            if self._topics[name].type_name == ODOMETRY and sample.first.child_frame_id:
                self.notes.append(f"ego frame: that of {name}, {sample.first.child_frame_id!r}")
                return frame_name(sample.first.child_frame_id)
        return None

    def _mount(self, name: str, config: SensorConfig, frame: str) -> F64:
        if config.mount is not None:
            try:
                given = se3_from_quaternion(config.mount.quaternion_wxyz, config.mount.translation_m)
                check_mount(given)
            except ValueError as error:
                raise UsageError(f"sensor {name}: mount: {error}") from error
            return self._ego_SE3_frame @ given
        if self._ego_frame is None:
            raise DriveError(
                f"{config.topic}: the ego frame is not known, so frame {frame!r} has no place in it; known frames "
                f"are {', '.join(self._names) or 'none'}; name it as `ego_frame` in a topics.yaml, or give {name} a "
                "`mount`"
            )
        place = self._found.static.between(self._ego_frame, frame)
        if place is None:
            place = self._frames.between(self._ego_frame, frame)
            if place is None and self._config.ego_frame is not None and self._ego_frame not in self._names:
                raise UsageError(
                    f"ego_frame: no frame {self._ego_frame!r}; there are {', '.join(self._names) or 'none'}"
                )
            if place is None:
                raise DriveError(
                    f"{config.topic}: no transform from its frame {frame!r} to the ego frame {self._ego_frame!r}; "
                    f"known frames: {', '.join(self._names) or 'none'}; provide /tf_static, or give {name} a "
                    "`mount` in a topics.yaml, or leave the topic out there"
                )
            self.notes.append(f"{name}: its place comes from /tf, as first told; it is taken to be fixed")
        return self._ego_SE3_frame @ place

    def _camera(self, name: str, config: SensorConfig) -> CameraModel:
        if (given := config.camera) is not None:
            (fx, fy), (cx, cy) = given.focal_px, given.center_px
            matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
            try:
                return make_camera(name, given.width_px, given.height_px, matrix, given.model, given.distortion)
            except DriveError as error:
                raise UsageError(f"camera of {error}") from error
        if config.info is None or config.info not in self._found.samples:
            raise DriveError(
                f"{config.topic}: no CameraInfo for it was found; name its topic as `info` of {name} in a topics.yaml "
                "or give `camera` there"
            )
        rectified = is_rectified(config)
        if rectified and config.rectified is None:
            self.notes.append(f"{name}: its images are taken to be rectified, by the name of the topic")
        return camera_from_info(config.info, self._found.samples[config.info].first, is_rectified=rectified)

    def _layout(self, name: str, config: SensorConfig, sample: Sample) -> CloudLayout:
        columns = cloud_columns(config.topic, sample.first)
        stamp = stamp_ns(sample.first.header)
        layout = learn_layout(columns, stamp, intensity_max=config.intensity_max, unit=config.time_unit)
        if config.intensity_max is None:
            self.notes.append(f"{name}: full intensity is taken to be {layout.intensity_max:g}")
        if layout.unit_ns is None:
            self.notes.append(f"{name}: points have no times of their own")
        elif config.time_unit is None:
            kind = "clock times" if layout.is_absolute else "times from the stamp"
            self.notes.append(f"{name}: point times are taken to be {kind} in units of {layout.unit_ns:g} ns")
        if layout.is_own_clock and stamp:
            self.notes.append(f"{name}: the clock of the points is not that of the stamps; a sweep begins at its stamp")
        return layout

    def _odometry(self, name: str) -> MotionPlan:
        message = self._found.samples[name].first
        child, parent = frame_name(message.child_frame_id), frame_name(message.header.frame_id)
        place: F64 | None = np.eye(4)
        if self._ego_frame is not None and child:
            place = self._frames.between(child, self._ego_frame)
        if place is None:
            raise DriveError(
                f"{name}: no transform from the ego frame {self._ego_frame!r} to {child!r}, whose pose it tells; "
                "provide /tf_static, or set `poses` or `ego_frame` in a topics.yaml"
            )
        return self._plan(name, parent, child or str(self._ego_frame), place)

    def _tf(self) -> MotionPlan | None:
        """The first transform of `/tf` above the ego frame."""
        ego = self._ego_frame
        if ego is None:
            return None
        for name in self._found.samples:
            if self._topics[name].type_name not in (TRANSFORMS, OLD_TRANSFORMS):
                continue
            for parent, child in self._found.moving.links:
                place = self._found.static.between(child, ego)
                if place is not None and self._found.static.between(parent, ego) is None:
                    return self._plan(name, parent, child, place)
        return None

    def _plan(self, topic: str, parent: str, child: str, child_SE3_frame: F64) -> MotionPlan:
        frame_SE3_ego = se3(translation=self._config.ego_offset_m)
        return MotionPlan(
            topic=topic,
            type_name=self._topics[topic].type_name,
            parent=parent,
            child=child,
            child_SE3_ego=child_SE3_frame @ frame_SE3_ego,
        )


def _modality(topic: Topic, config: SensorConfig) -> Modality:
    if topic.type_name in (COMPRESSED_IMAGE, IMAGE):
        return Modality.CAMERA
    return Modality.LIDAR if topic.type_name == POINT_CLOUD and not config.radar else Modality.RADAR


def plan_sensors(
    planner: Planner, sensors: Mapping[str, SensorConfig], heard: Mapping[str, Sample]
) -> list[SensorPlan]:
    """Plans of the sensors that have messages, lidars first. Raises DriveError where none has, or as `Planner` does."""
    plans = []
    for name, config in sensors.items():
        if config.topic in heard:
            plans.append(planner.sensor(name, config))
        else:
            planner.notes.append(f"{name}: no message in {config.topic}; it is left out")
    if not plans:
        raise DriveError(
            "no sensor has a message; types of sensors are " + ", ".join(SENSOR_TYPES) + "; cameras need a "
            "CameraInfo or a topics.yaml"
        )
    order = [Modality.LIDAR, Modality.CAMERA, Modality.RADAR]
    return sorted(plans, key=lambda plan: order.index(plan.sensor.modality))
