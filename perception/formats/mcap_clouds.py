"""Lidar sweeps and radar scans as `foxglove.PointCloud`, bit for bit. Schema: https://docs.foxglove.dev."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from foxglove_schemas_protobuf.PackedElementField_pb2 import PackedElementField
from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.formats.wire import without_fields

LIDAR_FIELDS: Final[dict[str, str]] = {
    "x": "<f4",
    "y": "<f4",
    "z": "<f4",
    "intensity": "<f4",
    "offset_ns": "<i4",
    "ring": "u1",
}
RADAR_FIELDS: Final[dict[str, str]] = {
    "x": "<f4",
    "y": "<f4",
    "z": "<f4",
    "rcs_dbsm": "<f4",
    "radial_mps": "<f4",
    "compensated_mps": "<f4",
    "is_valid": "u1",
}
_LIDAR_ITEMS: Final = tuple(LIDAR_FIELDS.items())
_RADAR_ITEMS: Final = tuple(RADAR_FIELDS.items())
MAX_STRIDE: Final = 4096
MAX_FIELDS: Final = 64
MAX_HEAD_BYTES: Final = 16 * 1024
"""Of a cloud without its points; heads are kept to be known again."""

_TYPES: Final[dict[str, Any]] = {
    "u1": PackedElementField.UINT8,
    "i1": PackedElementField.INT8,
    "<u2": PackedElementField.UINT16,
    "<i2": PackedElementField.INT16,
    "<u4": PackedElementField.UINT32,
    "<i4": PackedElementField.INT32,
    "<f4": PackedElementField.FLOAT32,
    "<f8": PackedElementField.FLOAT64,
}
_FORMATS: Final = {number: name for name, number in _TYPES.items()}

Columns = Mapping[str, NDArray[Any] | None]


def pack_sweep(sweep: LidarSweep) -> bytes:
    """A sweep as it stands; `motion` has no place in the schema: the channel tells it."""
    columns = {"intensity": sweep.intensity, "offset_ns": sweep.point_offset_ns, "ring": sweep.ring}
    return _pack(sweep.sensor, sweep.capture_ns, sweep.points_m, columns, LIDAR_FIELDS)


def pack_scan(scan: RadarScan) -> bytes:
    columns = {
        "rcs_dbsm": scan.rcs_dbsm,
        "radial_mps": scan.radial_mps,
        "compensated_mps": scan.compensated_mps,
        "is_valid": scan.is_valid,
    }
    return _pack(scan.sensor, scan.capture_ns, scan.points_m, columns, RADAR_FIELDS)


def read_sweep(data: bytes | memoryview, sensor: str, arrival_ns: int, motion: SweepMotion) -> LidarSweep:
    """Raises PayloadError where the bytes are no such cloud."""
    capture_ns, rows = _read(data, sensor, _LIDAR_ITEMS, ("intensity",))
    names = rows.dtype.names or ()
    return LidarSweep(
        sensor=sensor,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=_points(rows),
        intensity=_column(rows, "intensity"),
        motion=motion,
        point_offset_ns=_column(rows, "offset_ns") if "offset_ns" in names else None,
        ring=_column(rows, "ring") if "ring" in names else None,
    )


def read_scan(data: bytes | memoryview, sensor: str, arrival_ns: int) -> RadarScan:
    """Raises PayloadError where the bytes are no such cloud."""
    capture_ns, rows = _read(data, sensor, _RADAR_ITEMS, ("rcs_dbsm", "radial_mps", "is_valid"))
    has_compensated = "compensated_mps" in (rows.dtype.names or ())
    return RadarScan(
        sensor=sensor,
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        points_m=_points(rows),
        rcs_dbsm=_column(rows, "rcs_dbsm"),
        radial_mps=_column(rows, "radial_mps"),
        compensated_mps=_column(rows, "compensated_mps") if has_compensated else None,
        is_valid=rows["is_valid"] != 0,
    )


def _pack(
    sensor: str, capture_ns: int, points_m: NDArray[np.float32], columns: Columns, formats: Mapping[str, str]
) -> bytes:
    present = [name for name in formats if name in "xyz" or columns[name] is not None]
    rows = np.zeros(len(points_m), dtype=_row_type(tuple(formats[name] for name in present), tuple(present)))
    for k, axis in enumerate("xyz"):
        rows[axis] = points_m[:, k]
    for name in present[3:]:
        rows[name] = columns[name]
    cloud = PointCloud(frame_id=sensor, point_stride=rows.dtype.itemsize, data=rows.tobytes())
    cloud.timestamp.FromNanoseconds(capture_ns)
    cloud.pose.orientation.w = 1.0
    assert rows.dtype.fields is not None
    for name in present:
        cloud.fields.add(name=name, offset=rows.dtype.fields[name][1], type=_TYPES[formats[name]])
    return cloud.SerializeToString()


@lru_cache(maxsize=64)
def _row_type(formats: tuple[str, ...], fields: tuple[str, ...]) -> np.dtype[Any]:
    """Fields one behind the other; rows end at multiples of 4 bytes: aligned columns are read five times faster."""
    sizes = [np.dtype(item).itemsize for item in formats]
    offsets = [sum(sizes[:k]) for k in range(len(sizes))]
    stride = -(-sum(sizes) // 4) * 4
    return np.dtype({"names": list(fields), "formats": list(formats), "offsets": offsets, "itemsize": stride})


def _read(
    data: bytes | memoryview, sensor: str, formats: tuple[tuple[str, str], ...], needed: tuple[str, ...]
) -> tuple[int, NDArray[Any]]:
    """Capture time, and a row for each point, with the fields that are known."""
    try:
        head, (payload, stamp) = without_fields(data, PointCloud.DATA_FIELD_NUMBER, PointCloud.TIMESTAMP_FIELD_NUMBER)
        capture_ns = Timestamp.FromString(bytes(stamp)).ToNanoseconds()
    except (DecodeError, PayloadError, ValueError) as error:
        raise PayloadError(f"{sensor}: the message is no foxglove.PointCloud ({error})") from error
    if len(head) > MAX_HEAD_BYTES:
        raise PayloadError(f"{sensor}: the point cloud has {len(head)} bytes besides its points")
    kind = _row_view(head, sensor, formats, needed)
    if len(payload) % kind.itemsize:
        raise PayloadError(f"{sensor}: {len(payload)} bytes of points do not come in rows of {kind.itemsize}")
    # Copied, so that it begins at a multiple of 4: numpy takes five times as long for columns that do not.
    return capture_ns, np.ndarray(len(payload) // kind.itemsize, dtype=kind, buffer=bytes(payload))


@lru_cache(maxsize=256)
def _row_view(head: bytes, sensor: str, formats: tuple[tuple[str, str], ...], needed: tuple[str, ...]) -> np.dtype[Any]:
    """How the rows of a cloud lie, by its message without time and points: for a sensor that is always the same."""
    try:
        cloud, known = PointCloud.FromString(head), dict(formats)
    except DecodeError as error:
        raise PayloadError(f"{sensor}: the message is no foxglove.PointCloud ({error})") from error
    stride = cloud.point_stride
    if not 0 < stride <= MAX_STRIDE or len(cloud.fields) > MAX_FIELDS:
        raise PayloadError(f"{sensor}: the point cloud has {len(cloud.fields)} fields in rows of {stride} bytes")
    found = {field.name: field for field in cloud.fields if field.name in known}
    if missing := [name for name in ("x", "y", "z", *needed) if name not in found]:
        raise PayloadError(f"{sensor}: the point cloud has no field {', '.join(missing)}")
    for name, field in found.items():
        if _FORMATS.get(field.type) != known[name] or field.offset + np.dtype(known[name]).itemsize > stride:
            raise PayloadError(f"{sensor}: field {name} of the point cloud is not {known[name]} within {stride} bytes")
    offsets = [field.offset for field in found.values()]
    return np.dtype(
        {"names": list(found), "formats": [known[n] for n in found], "offsets": offsets, "itemsize": stride}
    )


def _points(rows: NDArray[Any]) -> NDArray[np.float32]:
    points = np.empty((len(rows), 3), dtype=np.float32)
    for k, axis in enumerate("xyz"):
        points[:, k] = rows[axis]
    return points


def _column(rows: NDArray[Any], name: str) -> NDArray[Any]:
    return np.ascontiguousarray(rows[name])
