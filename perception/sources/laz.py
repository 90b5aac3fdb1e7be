"""Point clouds in laz files.

The decompressor trusts the sizes that a file states and takes the whole process down where they are absurd, so they are
checked first.

Formats: ASPRS LAS 1.2 to 1.4 (public header block), LASzip specification (VLR 22204, chunk table).
"""

import io
import struct
from pathlib import Path
from typing import Any

import laspy
import lazrs
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.image_files import read_payload

MAX_POINTS = 4_000_000
"""A sweep that claims more is broken; those of aiMotive have about 130,000."""

_HEADER_BYTES = 227
_COUNTS_AT = 96
"""Offset of: offset to the points, number of VLRs, point format, size of a point, number of points."""
_MAX_VLRS = 64
_VLR_HEADER_BYTES = 54
_LASZIP_RECORD = 22204
_FIXED_LASZIP_BYTES = 34


def read_laz(path: Path) -> NDArray[np.float64]:
    """Points of a laz file, (N, 5): x, y, z in metres, intensity as stored, gps_time as stored.

    Raises PayloadError where the file is missing, cut short, broken, empty or has no point times.
    """
    data = read_payload(path)
    _check_sizes(path, data)
    try:
        with laspy.open(io.BytesIO(data), laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False) as reader:
            if "gps_time" not in set(reader.header.point_format.dimension_names):
                raise PayloadError(f"{path}: the points have no gps_time")
            points: Any = reader.read_points(-1)
            columns = [points.x, points.y, points.z, points.intensity, points.gps_time]
            return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    except (laspy.LaspyException, lazrs.LazrsError, OSError, EOFError) as error:
        raise PayloadError(f"{path}: not a readable laz file ({error})") from error
    except (ValueError, IndexError, KeyError, OverflowError, AssertionError, struct.error) as error:
        # What laspy raises where the fields of a header contradict each other.
        raise PayloadError(f"{path}: not a readable laz file ({type(error).__name__}: {error})") from error


def _check_sizes(path: Path, data: bytes) -> None:
    if len(data) < _HEADER_BYTES or not data.startswith(b"LASF"):
        raise PayloadError(f"{path}: not a laz file of {_HEADER_BYTES} bytes or more")
    points_at, vlrs, _, point_bytes, points = struct.unpack_from("<IIBHI", data, _COUNTS_AT)
    if not _HEADER_BYTES <= points_at <= len(data) - 8 or vlrs > _MAX_VLRS:
        raise PayloadError(f"{path}: the header does not fit the file")
    if data[25] >= 4 and len(data) >= 255:
        # LAS 1.4 counts points again, in 64 bits.
        points = struct.unpack_from("<Q", data, 247)[0]
    if not 0 < points <= MAX_POINTS:
        raise PayloadError(f"{path}: holds {points} points; 1 to {MAX_POINTS} are read")
    item_bytes = _laszip_item_bytes(path, data, vlrs, points_at)
    if item_bytes != point_bytes:
        raise PayloadError(f"{path}: points of {point_bytes} bytes are packed as {item_bytes} bytes")
    (chunks_at,) = struct.unpack_from("<q", data, points_at)
    if not points_at < chunks_at <= len(data) - 8:
        raise PayloadError(f"{path}: the chunk table lies outside the file; the file is cut short")
    (chunks,) = struct.unpack_from("<I", data, chunks_at + 4)
    if not 0 < chunks <= len(data):
        raise PayloadError(f"{path}: the chunk table states {chunks} chunks")


def _laszip_item_bytes(path: Path, data: bytes, vlrs: int, points_at: int) -> int:
    """Bytes of an unpacked point, from the record that describes the compression."""
    (at,) = struct.unpack_from("<H", data, 94)
    for _ in range(vlrs):
        if at + _VLR_HEADER_BYTES > points_at:
            break
        record, length = struct.unpack_from("<HH", data, at + 18)
        body = data[at + _VLR_HEADER_BYTES : at + _VLR_HEADER_BYTES + length]
        if record == _LASZIP_RECORD and len(body) >= _FIXED_LASZIP_BYTES:
            items = (len(body) - _FIXED_LASZIP_BYTES) // 6
            return sum(struct.unpack_from("<H", body, _FIXED_LASZIP_BYTES + 6 * i + 2)[0] for i in range(items))
        at += _VLR_HEADER_BYTES + length
    raise PayloadError(f"{path}: no record of the compression; the file is no laz or is broken")
