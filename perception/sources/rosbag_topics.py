"""Which topic of a bag is which sensor: said by a `topics.yaml`, or guessed from types and names.

A mapping stands in the bag's folder, or beside a file, as `topics.yaml`, or is named in the path of the drive:
`BAG?topics=FILE`. docs/formats.md shows one.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml

from perception.core.errors import UsageError
from perception.core.rig import MAX_CAMERAS
from perception.sources.rosbag_storage import Topic
from perception.sources.rosbag_types import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, SENSOR_TYPES

FILE_NAME = "topics.yaml"
AUTO, TF, NONE = "auto", "tf", "none"
"""Values of `poses` that are no topic."""

MAX_FILE_BYTES = 2**20

_DROPPED = {
    "image", "image_raw", "image_color", "image_mono", "image_rect", "image_rect_color", "compressed", "points",
    "points_raw", "point_cloud", "pointcloud", "scan", "tracks", "returns", "data",
}  # fmt: skip
_IS_DEPTH = re.compile(r"depth|disparity|theora|/mask|/label")
_IS_RECTIFIED = re.compile(r"image_rect")

Triple = tuple[float, float, float]


class MountConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a sensor sits in the ego frame; cameras look along their z axis."""

    translation_m: Triple
    quaternion_wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


class CameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intrinsics in place of a `CameraInfo`; model and distortion as ROS has them."""

    width_px: int
    height_px: int
    focal_px: tuple[float, float]
    center_px: tuple[float, float]
    model: str = ""
    distortion: list[float] = []


class SensorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sensor. What is left out is guessed, or taken from the bag."""

    topic: str
    info: str | None = None
    camera: CameraConfig | None = None
    rectified: bool | None = None
    frame: str | None = None
    mount: MountConfig | None = None
    motion: Literal["raw", "compensated"] = "raw"
    intensity_max: Annotated[float, msgspec.Meta(gt=0)] | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    radar: bool = False


class TopicsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping. poses: `auto`, `tf`, `none` or the name of an odometry topic.

    ego_offset_m: the road under the middle of the rear axle, in the ego frame of the bag.
    """

    sensors: dict[str, SensorConfig] = {}
    ego_frame: str | None = None
    ego_offset_m: Triple = (0.0, 0.0, 0.0)
    poses: str = AUTO


T = TypeVar("T", SensorConfig, TopicsConfig)


def read_topics(path: Path) -> TopicsConfig:
    """Read a mapping. Raises UsageError naming the file and the field."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path}: too large for a mapping of topics")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: no valid YAML ({error})") from error
    if isinstance(content, dict) and isinstance(sensors := content.get("sensors"), dict):
        # One by one: msgspec does not tell which of them is wrong.
        for name, sensor in sensors.items():
            _convert(sensor, SensorConfig, path, f"sensors.{name}")
    return _convert(content if content is not None else {}, TopicsConfig, path)


def _convert(content: Any, kind: type[T], path: Path, part: str = "") -> T:
    """Raises UsageError naming the file and the field. part: of the file, that `content` is."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        reason, _, field = str(error).partition(" - at ")
        is_here = not field  # else a field of a field is wrong, whose names are not those of `kind`
        place = f"{part}{field.strip('`').removeprefix('$')}".lstrip(".") or "the top"
        known = f"; known are {', '.join(kind.__struct_fields__)}" if "unknown field" in reason and is_here else ""
        raise UsageError(f"{path}: {place}: {reason}{known}") from error


def guess_sensors(topics: Mapping[str, Topic]) -> dict[str, SensorConfig]:
    """A sensor for each topic of a sensor's type, named after it; images only where their calibration is recorded.

    Of a camera whose images are there raw and compressed, the compressed ones; at most as many as a rig may have.
    """
    sensors: dict[str, SensorConfig] = {}
    cameras: set[str] = set()
    for kind in SENSOR_TYPES:
        for topic in sorted(name for name, found in topics.items() if found.type_name == kind):
            info = find_info(topic, topics) if kind in (COMPRESSED_IMAGE, IMAGE) else None
            if kind in (COMPRESSED_IMAGE, IMAGE):
                if info is None or info in cameras or _IS_DEPTH.search(topic) or len(cameras) == MAX_CAMERAS:
                    continue
                cameras.add(info)
            name = _short_name(topic)
            if name in sensors:
                name = topic.strip("/").replace("/", "_")
            sensors[name] = SensorConfig(topic=topic, info=info)
    return sensors


def find_info(topic: str, topics: Mapping[str, Topic]) -> str | None:
    """The `CameraInfo` topic that belongs to an image topic: beside it, or beside what it was made from."""
    parts = topic.split("/")
    for depth in range(len(parts) - 1, max(0, len(parts) - 4), -1):
        name = "/".join([*parts[:depth], "camera_info"])
        if name in topics and topics[name].type_name == CAMERA_INFO:
            return name
    return None


def is_rectified(sensor: SensorConfig) -> bool:
    """Whether the images of a camera are undistorted: said, or by the name of the topic (`image_rect`)."""
    return sensor.rectified if sensor.rectified is not None else bool(_IS_RECTIFIED.search(sensor.topic))


def unread(topics: Iterable[str], used: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(topics) - set(used)))


def _short_name(topic: str) -> str:
    parts = [part for part in topic.split("/") if part and part not in _DROPPED]
    return "_".join(parts) or topic.strip("/").replace("/", "_")
