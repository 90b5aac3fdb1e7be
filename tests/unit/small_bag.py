"""Writes drives as bags of ROS 1 and ROS 2, with the writers of rosbags, the way that drivers and recorders do."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1, rosbag2
from rosbags.typesys.store import Typestore

from perception.core.cameras import CameraModel
from perception.core.geometry import rotation_to_quaternion
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan
from perception.core.rig import Modality, SensorRig
from perception.sources.rosbag_types import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    ODOMETRY,
    POINT_CLOUD,
    RADAR_RETURN,
    RADAR_SCAN,
    TRANSFORMS,
    typestore,
)

KINDS = ("ros1", "sqlite3", "mcap")
F64 = NDArray[np.float64]
_DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


@dataclass(slots=True)
class Ros:
    """Makes messages of one version of ROS."""

    kind: str
    store: Typestore = field(init=False)

    def __post_init__(self) -> None:
        self.store = typestore(is_ros1=self.kind == "ros1")

    def make(self, type_name: str, **fields: Any) -> Any:
        return self.store.types[type_name](**fields)

    def header(self, time_ns: int, frame: str) -> Any:
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        stamp = self.make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        sequence = {"seq": 0} if self.kind == "ros1" else {}
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame, **sequence)

    def vector(self, values: Iterable[float], kind: str = "Vector3") -> Any:
        x, y, z = (float(value) for value in values)
        return self.make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)

    def quaternion(self, rotation: F64) -> Any:
        w, x, y, z = rotation_to_quaternion(rotation).tolist()
        return self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def transforms(self, time_ns: int, links: dict[tuple[str, str], F64]) -> Any:
        """A TFMessage of parent_SE3_child by (parent, child)."""
        stamped = [
            self.make(
                "geometry_msgs/msg/TransformStamped",
                header=self.header(time_ns, parent),
                child_frame_id=child,
                transform=self.make(
                    "geometry_msgs/msg/Transform",
                    translation=self.vector(place[:3, 3]),
                    rotation=self.quaternion(place[:3, :3]),
                ),
            )
            for (parent, child), place in links.items()
        ]
        return self.make(TRANSFORMS, transforms=stamped)

    def odometry(self, time_ns: int, pose: F64, twist: Iterable[float] = (0,) * 6, child: str = "base_link") -> Any:
        linear = list(twist)
        return self.make(
            ODOMETRY,
            header=self.header(time_ns, "odom"),
            child_frame_id=child,
            pose=self.make(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self.make(
                    "geometry_msgs/msg/Pose",
                    position=self.vector(pose[:3, 3], "Point"),
                    orientation=self.quaternion(pose[:3, :3]),
                ),
                covariance=np.zeros(36),
            ),
            twist=self.make(
                "geometry_msgs/msg/TwistWithCovariance",
                twist=self.make(
                    "geometry_msgs/msg/Twist", linear=self.vector(linear[:3]), angular=self.vector(linear[3:])
                ),
                covariance=np.zeros(36),
            ),
        )

    def cloud(self, time_ns: int, frame: str, points: NDArray[Any], *, rows: int = 1, row_padding: int = 0) -> Any:
        """A PointCloud2 of a structured array; its fields, order of bytes and gaps are kept."""
        dtype, names = points.dtype, points.dtype.names or ()
        is_big = any(dtype[name].base.byteorder == ">" for name in names)
        width = len(points) // rows
        data = b"".join(row.tobytes() + bytes(row_padding) for row in points.reshape(rows, width))
        fields = [
            self.make(
                "sensor_msgs/msg/PointField",
                name=name,
                offset=dict(dtype.fields or {})[name][1],
                datatype=_DATATYPES[dtype[name].base.str[1:]],
                count=int(np.prod(dtype[name].shape, dtype=int)),
            )
            for name in names
        ]
        return self.make(
            POINT_CLOUD,
            header=self.header(time_ns, frame),
            height=rows,
            width=width,
            fields=fields,
            is_bigendian=is_big,
            point_step=dtype.itemsize,
            row_step=width * dtype.itemsize + row_padding,
            data=np.frombuffer(data, dtype=np.uint8),
            is_dense=True,
        )

    def info(self, time_ns: int, frame: str, camera: CameraModel, model: str = "plumb_bob") -> Any:
        projection = np.zeros((3, 4))
        projection[:, :3] = camera.intrinsic
        values = {
            "D": camera.distortion,
            "K": camera.intrinsic.ravel(),
            "R": np.eye(3).ravel(),
            "P": projection.ravel(),
        }
        roi = self.make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self.make(
            CAMERA_INFO,
            header=self.header(time_ns, frame),
            height=camera.height_px,
            width=camera.width_px,
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=roi,
            **{name if self.kind == "ros1" else name.lower(): array.copy() for name, array in values.items()},
        )


@dataclass(frozen=True, slots=True)
class Logged:
    """One message of a bag: where and when it was logged."""

    topic: str
    type_name: str
    log_ns: int
    message: Any


def write_bag(folder: Path, kind: str, logged: Iterable[Logged], *, compression: str = "") -> Path:
    """A bag of one kind; the path that a user would give."""
    ros = Ros(kind)
    ordered = sorted(logged, key=lambda item: item.log_ns)
    connections: dict[str, Any] = {}
    if kind == "ros1":
        path = folder / "drive.bag"
        file = rosbag1.Writer(path)
        if compression:
            file.set_compression(rosbag1.Writer.CompressionFormat[compression])
        with file as writer:
            for item in ordered:
                if item.topic not in connections:
                    connections[item.topic] = writer.add_connection(item.topic, item.type_name, typestore=ros.store)
                data = bytes(ros.store.serialize_ros1(item.message, item.type_name))
                writer.write(connections[item.topic], item.log_ns, data)
        return path
    path = folder / "drive"
    plugin = rosbag2.StoragePlugin.MCAP if kind == "mcap" else rosbag2.StoragePlugin.SQLITE3
    bag = rosbag2.Writer(path, version=8, storage_plugin=plugin)
    if compression:
        mode = rosbag2.CompressionMode.STORAGE if kind == "mcap" else rosbag2.CompressionMode.MESSAGE
        bag.set_compression(mode, rosbag2.CompressionFormat.ZSTD)
    with bag as opened:
        for item in ordered:
            if item.topic not in connections:
                connections[item.topic] = opened.add_connection(item.topic, item.type_name, typestore=ros.store)
            data = bytes(ros.store.serialize_cdr(item.message, item.type_name))
            opened.write(connections[item.topic], item.log_ns, data)
    return path


def logged_drive(kind: str, rig: SensorRig, messages: Iterable[AnyMessage]) -> list[Logged]:
    """A drive as its topics: what a set of drivers would have logged."""
    ros = Ros(kind)
    listed = [message for message in messages if message.sensor in rig or isinstance(message, EgoState)]
    begin_ns = min(message.arrival_ns for message in listed)
    links = {("base_link", _frame(sensor.name)): sensor.ego_SE3_sensor for sensor in rig.sensors}
    logged = [Logged("/tf_static", TRANSFORMS, begin_ns, ros.transforms(begin_ns, links))]
    for sensor in rig.of(Modality.CAMERA):
        assert sensor.camera is not None
        info = ros.info(begin_ns, _frame(sensor.name), sensor.camera)
        logged.append(Logged(f"/{sensor.name}/camera_info", CAMERA_INFO, begin_ns, info))
    return logged + [_logged(ros, message) for message in listed]


def _frame(sensor: str) -> str:
    return f"{sensor.lower()}_link"


def _logged(ros: Ros, message: AnyMessage) -> Logged:
    header = ros.header(message.capture_ns, _frame(message.sensor))
    if isinstance(message, CameraFrame):
        data = np.frombuffer(message.data, dtype=np.uint8)
        made = ros.make(COMPRESSED_IMAGE, header=header, format="jpeg", data=data)
        return Logged(f"/{message.sensor}/image_raw/compressed", COMPRESSED_IMAGE, message.arrival_ns, made)
    if isinstance(message, LidarSweep):
        cloud = ros.cloud(message.capture_ns, _frame(message.sensor), sweep_rows(message))
        return Logged(f"/{message.sensor}/points", POINT_CLOUD, message.arrival_ns, cloud)
    if isinstance(message, RadarScan):
        made = ros.make(RADAR_SCAN, header=header, returns=_returns(ros, message))
        return Logged(f"/{message.sensor}/scan", RADAR_SCAN, message.arrival_ns, made)
    assert isinstance(message, EgoState)
    assert message.world_SE3_ego is not None
    assert message.velocity_mps is not None
    twist = [*message.velocity_mps, 0, 0, 0, message.yaw_rate_radps or 0.0]
    odometry = ros.odometry(message.capture_ns, message.world_SE3_ego, twist)
    return Logged("/odom", ODOMETRY, message.arrival_ns, odometry)


def sweep_rows(sweep: LidarSweep) -> NDArray[Any]:
    """A sweep as the Velodyne driver lays out its points: x, y, z, a gap, intensity, ring."""
    layout: Any = {
        "names": ["x", "y", "z", "intensity", "ring"],
        "formats": ["<f4"] * 4 + ["<u2"],
        "offsets": [0, 4, 8, 16, 20],
        "itemsize": 32,
    }
    rows: NDArray[Any] = np.zeros(len(sweep.points_m), dtype=np.dtype(layout))
    for number, axis in enumerate("xyz"):
        rows[axis] = sweep.points_m[:, number]
    rows["intensity"] = sweep.intensity
    if sweep.ring is not None:
        rows["ring"] = sweep.ring
    return rows


def _returns(ros: Ros, scan: RadarScan) -> list[Any]:
    x, y, z = scan.points_m.astype(np.float64).T
    distance = np.sqrt(x * x + y * y + z * z)
    rows = zip(distance, np.arctan2(y, x), np.arcsin(z / distance), scan.radial_mps, scan.rcs_dbsm, strict=True)
    names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    return [ros.make(RADAR_RETURN, **dict(zip(names, map(float, row), strict=True))) for row in rows]
