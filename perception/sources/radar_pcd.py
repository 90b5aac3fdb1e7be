"""Radar scans as nuScenes stores them: binary PCD v0.7 whose records mix types (18 fields, 43 bytes).

Bytes after the last record are ignored: the original files are padded. Format: pointclouds.org, "The PCD file format".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError

_TYPES = {
    ("F", 4): "<f4",
    ("F", 8): "<f8",
    ("I", 1): "i1",
    ("I", 2): "<i2",
    ("I", 4): "<i4",
    ("I", 8): "<i8",
    ("U", 1): "u1",
    ("U", 2): "<u2",
    ("U", 4): "<u4",
    ("U", 8): "<u8",
}
_NEEDED = ("x", "y", "z", "rcs", "vx", "vy", "vx_comp", "vy_comp", "dyn_prop", "ambig_state", "invalid_state")
_MAX_HEADER_BYTES = 65_536

# The default filters of nuscenes-devkit's RadarPointCloud.
VALID_INVALID_STATE = 0
VALID_DYN_PROPS = range(7)
VALID_AMBIG_STATE = 3

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RadarReturns:
    """The columns of `RadarScan`, N rows: points_m (N, 3), the others (N,)."""

    points_m: F32
    rcs_dbsm: F32
    radial_mps: F32
    compensated_mps: F32
    is_valid: NDArray[np.bool_]


def parse_radar_pcd(data: bytes) -> RadarReturns:
    """Parse one file. Rows with a position, RCS or velocity that is not finite are left out; filters remove no row.

    vx, vy are the radial velocity as a vector in the radar frame; range rates are their projections on the ray.
    Raises PayloadError on a broken header, missing fields, or fewer bytes than POINTS asks for.
    """
    records = _records(data)
    values = np.stack([records[name].astype(np.float32) for name in _NEEDED[:8]], axis=1)
    is_finite = np.all(np.isfinite(values), axis=1)
    records, values = records[is_finite], values[is_finite]
    ray = values[:, :2].astype(np.float64)
    ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-6)
    is_valid = (
        (records["invalid_state"] == VALID_INVALID_STATE)
        & np.isin(records["dyn_prop"], VALID_DYN_PROPS)
        & (records["ambig_state"] == VALID_AMBIG_STATE)
    )
    return RadarReturns(
        points_m=np.ascontiguousarray(values[:, :3]),
        rcs_dbsm=values[:, 3].copy(),
        radial_mps=np.sum(ray * values[:, 4:6], axis=1).astype(np.float32),
        compensated_mps=np.sum(ray * values[:, 6:8], axis=1).astype(np.float32),
        is_valid=is_valid,
    )


def _records(data: bytes) -> NDArray[np.void]:
    header, start = _header(data)
    if header.get("DATA") != ["binary"]:
        raise PayloadError(f"radar PCD: DATA must be binary, got {' '.join(header.get('DATA', ['nothing']))}")
    dtype = _record_type(header)
    missing = [name for name in _NEEDED if name not in (dtype.names or ())]
    if missing:
        raise PayloadError(f"radar PCD: FIELDS lacks {', '.join(missing)}")
    points = _integers(header, "POINTS")[0]
    if points < 0 or len(data) - start < points * dtype.itemsize:
        raise PayloadError(
            f"radar PCD: POINTS {points} needs {points * dtype.itemsize} bytes, the file has {len(data) - start}"
        )
    return np.frombuffer(data, dtype=dtype, count=points, offset=start)


def _header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """The header's entries and where the records start."""
    entries: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in entries:
        end = data.find(b"\n", start, _MAX_HEADER_BYTES)
        if end < 0:
            raise PayloadError("radar PCD: the header has no DATA line")
        words = data[start:end].decode("ascii", errors="replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            entries[words[0]] = words[1:]
    return entries, start


def _record_type(header: dict[str, list[str]]) -> "np.dtype[np.void]":
    names, types = header.get("FIELDS", []), header.get("TYPE", [])
    sizes, counts = _integers(header, "SIZE"), _integers(header, "COUNT")
    if not names or not len(names) == len(types) == len(sizes) == len(counts):
        raise PayloadError("radar PCD: FIELDS, SIZE, TYPE and COUNT must name equally many fields")
    fields: list[tuple[str, str]] = []
    for name, kind, size, count in zip(names, types, sizes, counts, strict=True):
        if (kind, size) not in _TYPES or count != 1:
            raise PayloadError(f"radar PCD: field {name} has TYPE {kind}, SIZE {size}, COUNT {count}: not supported")
        fields.append((name, _TYPES[kind, size]))
    if len(set(names)) != len(names):
        raise PayloadError("radar PCD: FIELDS names a field twice")
    return np.dtype(fields)


def _integers(header: dict[str, list[str]], key: str) -> list[int]:
    try:
        numbers = [int(word) for word in header[key]]
    except (KeyError, ValueError):
        raise PayloadError(f"radar PCD: the header's {key} is missing or no number") from None
    if not numbers:
        raise PayloadError(f"radar PCD: the header's {key} is empty")
    return numbers
