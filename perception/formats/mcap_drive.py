"""A drive as an MCAP file: its topics, its schemas, and the record that says which drive it is.

Log times are arrivals, publish times captures (0 where they are before 1970). Each channel says in its metadata what
it carries (`KIND`) and for which sensor, so that a reader needs no names of topics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError
from perception.core.rig import Modality, Sensor, SensorRig

DRIVE_RECORD: Final = "perception.drive"
"""Name of the metadata record with which each file begins."""
VERSION: Final = "1"

KIND: Final = "perception.kind"
SENSOR: Final = "perception.sensor"
MOTION: Final = "perception.motion"

IMAGE: Final = "image"
VIEWED_IMAGE: Final = "image with a view"
"""An image with a calibration of its own, which a record of kind `VIEW` before it holds."""
VIEW: Final = "view"
LIDAR: Final = "lidar"
RADAR: Final = "radar"
EGO: Final = "ego"
ROUTE: Final = "route"
UNREADABLE: Final = "unreadable"
LABELS: Final = "labels"
"""Log times of these are reference times, so that the index of the file tells them."""
RESULTS: Final = "results"

MESSAGE_KINDS: Final = frozenset({IMAGE, VIEWED_IMAGE, VIEW, LIDAR, RADAR, EGO, ROUTE, UNREADABLE})

WORLD_FRAME: Final = "world"
EGO_FRAME: Final = "ego"

CALIBRATION_SCHEMA: Final = "foxglove.CameraCalibration"
TRANSFORMS_SCHEMA: Final = "foxglove.FrameTransforms"


class CameraRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `CameraModel`; numbers keep all their bits."""

    width_px: int
    height_px: int
    intrinsic: list[float]
    projection: str
    distortion: list[float]
    xi: float


class SensorRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Sensor`."""

    name: str
    modality: str
    ego_SE3_sensor: list[float]
    frequency_hz: float
    offset_ns: int
    camera: CameraRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveRecord:
    """What the metadata record of a file says. part: number of the file within a recording that was split.

    recording: equal in all parts of a recording. provenance: free text, where the drive comes from.
    """

    drive_id: str
    rig: SensorRig
    recording: str
    part: int
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def pack_drive(record: DriveRecord, versions: Mapping[str, str]) -> dict[str, str]:
    """The content of the metadata record. versions: of the software that writes."""
    return {
        "version": VERSION,
        "drive_id": record.drive_id,
        "recording": record.recording,
        "part": str(record.part),
        "calibration_hash": record.rig.calibration_hash(),
        "rig": msgspec.json.encode([pack_sensor(sensor) for sensor in record.rig.sensors]).decode(),
        "notes": msgspec.json.encode(list(record.notes)).decode(),
        "provenance": msgspec.json.encode(dict(record.provenance)).decode(),
        "versions": msgspec.json.encode(dict(versions)).decode(),
    }


def read_drive(name: str, content: Mapping[str, str]) -> DriveRecord:
    """The drive that the metadata record of the file `name` describes.

    Raises DriveError where it is of another version or makes no sense.
    """
    if content.get("version") != VERSION:
        raise DriveError(f"{name}: its drive record has version {content.get('version')!r}; {VERSION} is known")
    try:
        sensors = msgspec.json.decode(content["rig"], type=list[SensorRecord])
        record = DriveRecord(
            drive_id=content["drive_id"],
            rig=SensorRig(sensors=tuple(map(_read_sensor, sensors))),
            recording=content["recording"],
            part=int(content["part"]),
            notes=tuple(msgspec.json.decode(content["notes"], type=list[str])),
            provenance=msgspec.json.decode(content["provenance"], type=dict[str, str]),
        )
    except KeyError as error:
        raise DriveError(f"{name}: its drive record has no {error}; record the drive anew") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise DriveError(f"{name}: its drive record is malformed ({error}); record the drive anew") from error
    if record.rig.calibration_hash() != content.get("calibration_hash"):
        raise DriveError(f"{name}: the rig in its drive record does not have the hash there; the file was changed")
    return record


def pack_sensor(sensor: Sensor) -> SensorRecord:
    return SensorRecord(
        name=sensor.name,
        modality=sensor.modality.value,
        ego_SE3_sensor=sensor.ego_SE3_sensor.ravel().tolist(),
        frequency_hz=float(sensor.frequency_hz),
        offset_ns=int(sensor.offset_ns),
        camera=None if sensor.camera is None else pack_camera(sensor.camera),
    )


def pack_camera(camera: CameraModel) -> CameraRecord:
    return CameraRecord(
        width_px=int(camera.width_px),
        height_px=int(camera.height_px),
        intrinsic=camera.intrinsic.ravel().tolist(),
        projection=camera.projection.value,
        distortion=camera.distortion.tolist(),
        xi=float(camera.xi),
    )


def read_camera(record: CameraRecord) -> CameraModel:
    """Raises ValueError where the numbers make no camera."""
    return CameraModel(
        width_px=record.width_px,
        height_px=record.height_px,
        intrinsic=matrix(record.intrinsic, 3),
        projection=Projection(record.projection),
        distortion=np.array(record.distortion, dtype=np.float64),
        xi=record.xi,
    )


def matrix(values: Sequence[float], size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(size, size) float64 of its rows, one after the other. Raises ValueError for another number of values."""
    if len(values) != size * size:
        raise ValueError(f"a matrix of {size}x{size} needs {size * size} numbers, got {len(values)}")
    return np.array(values, dtype=np.float64).reshape(size, size)


def _read_sensor(record: SensorRecord) -> Sensor:
    return Sensor(
        name=record.name,
        modality=Modality(record.modality),
        ego_SE3_sensor=matrix(record.ego_SE3_sensor, 4),
        frequency_hz=record.frequency_hz,
        offset_ns=record.offset_ns,
        camera=None if record.camera is None else read_camera(record.camera),
    )
