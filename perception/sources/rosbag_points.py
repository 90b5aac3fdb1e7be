"""`sensor_msgs/PointCloud2` of any layout to points, intensity, ring and point times; radar clouds to returns.

Fields are found by name, as the drivers of Velodyne, Ouster, Hesai, Robosense and Livox write them. What a field does
not say, its unit and its scale, is learnt from the first sweep of a sensor and then kept.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.payloads import MAX_DISTANCE_M, MAX_POINT_OFFSET_NS, point_offsets

Columns = NDArray[Any]
Field = tuple[str, int, int, int]
"""Name, offset, datatype and count, as in `sensor_msgs/PointField`."""
F32 = NDArray[np.float32]

INTENSITY = ("intensity", "i", "intensities", "reflectivity", "remission")
RING = ("ring", "channel", "line", "laser_number", "laser_id")
TIME = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset", "offset_ns", "point_time_offset")
DOPPLER = ("doppler_velocity", "doppler", "radial_velocity", "radial_speed", "range_rate", "velocity", "v_r", "vr")
COMPENSATED = ("compensated_velocity", "velocity_compensated", "v_r_compensated", "compensated")
RCS = ("rcs", "rcs_dbsm", "power", "amplitude", "intensity", "snr")

UNITS_NS = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_INTENSITY_SCALES = (1.0, 255.0, 4095.0, 65535.0)
_LONGEST_OFFSET_NS = 10e9
"""Times further from 0 than this are not counted from the stamp of their sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudLayout:
    """How a sensor fills its clouds. intensity_max: what is full intensity. unit_ns: of the time field, None without.

    is_absolute: times are those of a clock, else they count from the stamp. is_own_clock: that clock is not the one of
    the stamps, so the first point of a sweep is taken to be at its stamp.
    """

    intensity_max: float = 1.0
    unit_ns: float | None = None
    is_absolute: bool = False
    is_own_clock: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """points_m (N, 3), intensity (N,) in 0..1, offset_ns (N,) from the stamp or None, ring (N,) or None."""

    points_m: F32
    intensity: F32
    offset_ns: NDArray[np.int32] | None
    ring: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Returns:
    """points_m (N, 3), rcs_dbsm, radial_mps and compensated_mps (N,), the last None where there is no such field."""

    points_m: F32
    rcs_dbsm: F32
    radial_mps: F32
    compensated_mps: F32 | None


def cloud_columns(name: str, message: Any) -> Columns:
    """All fields of a cloud as a structured array (N,), without copying where rows have no padding and lie at a
    multiple of 4 bytes; elsewhere numpy would take five times as long for each column.

    Raises PayloadError, naming `name`, where the cloud declares more than it has, or fields outside of its points.
    """
    width, height, step, row = (int(message.width), int(message.height), int(message.point_step), int(message.row_step))
    data: NDArray[np.uint8] = message.data
    if step <= 0 or width * height == 0:
        raise PayloadError(f"{name}: the cloud has no points")
    row = row or width * step
    needed = (height - 1) * row + width * step
    if row < width * step or needed > len(data):
        raise PayloadError(
            f"{name}: the cloud declares {height} rows of {width} points of {step} bytes, but has {len(data)} bytes"
        )
    fields = tuple((field.name, int(field.offset), int(field.datatype), int(field.count)) for field in message.fields)
    dtype = _row_type(name, fields, step, is_big=bool(message.is_bigendian))
    if row == width * step or height == 1:
        rows = np.ascontiguousarray(data[: width * height * step])
        return (rows if rows.ctypes.data % 4 == 0 else rows.copy()).view(dtype)
    padded = np.zeros(height * row, dtype=np.uint8)
    padded[:needed] = data[:needed]
    return np.ascontiguousarray(padded.reshape(height, row)[:, : width * step]).reshape(-1).view(dtype)


@lru_cache(maxsize=256)
def _row_type(name: str, fields: tuple[Field, ...], step: int, *, is_big: bool) -> np.dtype[Any]:
    """How a point lies in its `step` bytes: of a sensor always the same. Raises PayloadError, naming `name`."""
    order = ">" if is_big else "<"
    formats, offsets = {}, {}
    for field, offset, datatype, count in fields:
        kind = _TYPES.get(datatype)
        if kind is None or field in formats or not field:
            continue
        length = max(1, count)
        if offset + np.dtype(kind).itemsize * length > step:
            raise PayloadError(f"{name}: field {field!r} lies outside of its point of {step} bytes")
        formats[field] = f"{order}{kind}" if length == 1 else f"({length},){order}{kind}"
        offsets[field] = offset
    for axis in "xyz":
        if axis not in formats or formats[axis].startswith("("):
            raise PayloadError(f"{name}: no field {axis!r}; it has {', '.join(formats) or 'none'}")
    return np.dtype(
        {"names": list(formats), "formats": list(formats.values()), "offsets": list(offsets.values()), "itemsize": step}
    )


@np.errstate(invalid="ignore", over="ignore")
def learn_layout(columns: Columns, stamp_ns: int, *, intensity_max: float | None, unit: str | None) -> CloudLayout:
    """The layout by the first cloud of a sensor; what is given is not guessed. stamp_ns: 0 where it has none."""
    strength = _column(columns, INTENSITY)
    if intensity_max is None:
        intensity_max = _intensity_max(strength) if strength is not None else 1.0
    times = _column(columns, TIME)
    if times is None:
        return CloudLayout(intensity_max=intensity_max)
    values = times.astype(np.float64)
    values = values[np.isfinite(values)]
    unit_ns = UNITS_NS[unit] if unit is not None else _unit_ns(values, is_integer=times.dtype.kind in "iu")
    latest_ns = float(np.max(np.abs(values), initial=0.0)) * unit_ns
    is_absolute = latest_ns > _LONGEST_OFFSET_NS
    is_own_clock = is_absolute and abs(latest_ns - stamp_ns) > MAX_POINT_OFFSET_NS
    return CloudLayout(intensity_max=intensity_max, unit_ns=unit_ns, is_absolute=is_absolute, is_own_clock=is_own_clock)


@np.errstate(invalid="ignore", over="ignore")
def read_points(name: str, columns: Columns, layout: CloudLayout, stamp_ns: int) -> Points:
    """Points of a cloud; those that are not finite, or at the origin (nothing seen), are left out.

    stamp_ns: of the sweep; 0 where it has none: then offsets end at 0. Raises PayloadError where no point is left.
    """
    points, keep = _positions(name, columns)
    strength = _column(columns, INTENSITY)
    intensity = np.zeros(len(points), dtype=np.float32)
    if strength is not None:
        intensity = strength[keep].astype(np.float32)
        if layout.intensity_max != 1.0:
            intensity /= np.float32(layout.intensity_max)
        if not (intensity.min() >= 0.0 and intensity.max() <= 1.0):
            intensity = np.minimum(np.fmax(intensity, np.float32(0.0)), np.float32(1.0))  # 0 where it is nan
    beams = _column(columns, RING)
    ring = None
    if beams is not None and beams.dtype.kind in "iu" and int(beams.min()) >= 0 and int(beams.max()) <= 255:
        ring = beams[keep].astype(np.uint8)
    times = _column(columns, TIME)
    offsets = None
    if times is not None and layout.unit_ns is not None:
        offsets = point_offsets(name, _offsets_ns(times[keep].astype(np.float64), layout, stamp_ns))
    return Points(points_m=points, intensity=intensity, offset_ns=offsets, ring=ring)


@np.errstate(invalid="ignore", over="ignore")
def read_returns(name: str, columns: Columns) -> Returns:
    """Returns of a radar's cloud. Raises PayloadError where it has no field of range rates, or no finite return."""
    points, keep = _positions(name, columns)
    radial = _column(columns, DOPPLER)
    if radial is None:
        raise PayloadError(f"{name}: no field of range rates; known are {', '.join(DOPPLER)}")
    strength, compensated = _column(columns, RCS), _column(columns, COMPENSATED)
    return Returns(
        points_m=points,
        rcs_dbsm=np.zeros(len(points), np.float32) if strength is None else strength[keep].astype(np.float32),
        radial_mps=radial[keep].astype(np.float32),
        compensated_mps=None if compensated is None else compensated[keep].astype(np.float32),
    )


def _positions(name: str, columns: Columns) -> tuple[F32, NDArray[np.bool_] | slice]:
    """Positions (M, 3) of those that were seen, and which of the cloud they are: all of it, or (N,)."""
    points = _xyz(columns)
    is_near = points.min() > -MAX_DISTANCE_M and points.max() < MAX_DISTANCE_M  # not if one is nan
    if is_near and points[:, 0].all():
        return points, slice(None)
    keep = np.all(np.abs(points) < MAX_DISTANCE_M, axis=1) & np.any(points != 0.0, axis=1)
    if not np.any(keep):
        raise PayloadError(f"{name}: none of its {len(points)} points is finite, near and not the origin")
    return points[keep], keep


def _xyz(columns: Columns) -> F32:
    """Positions (N, 3). Copied axis by axis: numpy takes ten times as long for three of a row at once."""
    points = np.empty((len(columns), 3), dtype=np.float32)
    for k, axis in enumerate("xyz"):
        points[:, k] = columns[axis]
    return points


def _column(columns: Columns, names: tuple[str, ...]) -> Columns | None:
    known = columns.dtype.names or ()
    found = next((name for name in names if name in known), None)
    return None if found is None or columns[found].ndim != 1 else columns[found]


def _intensity_max(strength: Columns) -> float:
    if strength.dtype.kind in "iu" and strength.dtype.itemsize == 1:
        return 255.0
    finite = strength[np.isfinite(strength)]
    largest = float(np.max(finite, initial=0))
    return next((scale for scale in _INTENSITY_SCALES if largest <= scale), largest)


def _unit_ns(values: NDArray[np.float64], *, is_integer: bool) -> float:
    """The unit in which the times of one sweep last less than half a second, and not less than they could."""
    lasts = float(np.ptp(values)) if len(values) else 0.0
    if is_integer:
        return 1.0 if lasts >= 1e6 or lasts == 0.0 else 1e3
    return next((unit for unit in UNITS_NS.values() if lasts * unit <= MAX_POINT_OFFSET_NS), 1.0)


def _offsets_ns(times: NDArray[np.float64], layout: CloudLayout, stamp_ns: int) -> NDArray[np.float64]:
    unit_ns, start_ns = layout.unit_ns or 1.0, 0.0
    if stamp_ns == 0:
        start_ns = float(times.max()) * unit_ns
    elif layout.is_own_clock:
        start_ns = float(times.min()) * unit_ns
    elif layout.is_absolute:
        start_ns = float(stamp_ns)
    return times * unit_ns - start_ns
