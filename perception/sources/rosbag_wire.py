"""The frequent messages of bags straight from their bytes, in CDR (ROS 2) or as ROS 1 packs them.

rosbags decodes any type, but makes an object of each field, return and track, which takes longer than all else that
reading does. What is made here has the names of the released definitions; covariances, and what else is not read of
odometry and tracks, are passed over.
CDR: OMG DDSI-RTPS 2.5, chapter 10. Numbers are aligned to their size, counted from behind a head of 4 bytes.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Triple = tuple[float, float, float]


class Stamp(NamedTuple):
    """`builtin_interfaces/Time`."""

    sec: int
    nanosec: int


class Header(NamedTuple):
    """`std_msgs/Header`."""

    stamp: Stamp
    frame_id: str


@dataclass(frozen=True, slots=True)
class Field:
    """`sensor_msgs/PointField`."""

    name: str
    offset: int
    datatype: int
    count: int


class Cloud(NamedTuple):
    """`sensor_msgs/PointCloud2`; the data are those of the record, not copied. So they are of the others."""

    header: Header
    height: int
    width: int
    fields: tuple[Field, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Bytes
    is_dense: bool


class CompressedImage(NamedTuple):
    """`sensor_msgs/CompressedImage`."""

    header: Header
    format: str
    data: Bytes


class Image(NamedTuple):
    """`sensor_msgs/Image`."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Bytes


class Odometry(NamedTuple):
    """`nav_msgs/Odometry`. quaternion_xyzw: in the order of ROS."""

    header: Header
    child_frame_id: str
    position_m: Triple
    quaternion_xyzw: tuple[float, float, float, float]
    linear_mps: Triple
    angular_radps: Triple


class RadarScan(NamedTuple):
    """`radar_msgs/RadarScan`. returns: (N,) with the fields of `RadarReturn`, float32."""

    header: Header
    returns: NDArray[Any]


class RadarTracks(NamedTuple):
    """`radar_msgs/RadarTracks`. tracks: (N,) with `position` and `velocity`, each (3,) float64."""

    header: Header
    tracks: NDArray[Any]


class _Forms:
    """How the numbers of a message lie, in one order of bytes; ROS 1 leaves no gaps."""

    def __init__(self, order: str, *, is_cdr: bool) -> None:
        gap = "3x" if is_cdr else ""
        self.length = Struct(f"{order}I")
        self.flag = Struct("B")
        self.header = Struct(f"{order}iII" if is_cdr else f"{order}4xiII")  # ROS 1 counts its headers
        self.size = Struct(f"{order}2I")
        self.field = Struct(f"{order}IB{gap}I")
        self.steps = Struct(f"{order}B{gap}2I")
        self.motion = Struct(f"{order}7d288x6d288x")
        self.radar_return = np.dtype(
            [(name, f"{order}f4") for name in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")]
        )
        self.track = np.dtype([("position", f"{order}f8", 3), ("velocity", f"{order}f8", 3)])


_CDR: Final = (_Forms(">", is_cdr=True), _Forms("<", is_cdr=True))
_ROS1: Final = _Forms("<", is_cdr=False)

_UUID_BYTES: Final = 16
_TRACK_BYTES: Final = 4 * 24 + 2 + 4 * 24
"""Of a track behind its id: four vectors, a class, four covariances."""


class Cursor:
    """Goes through one message. Whatever reads past its end raises struct.error or ValueError."""

    __slots__ = ("at", "forms", "is_cdr", "view")

    def __init__(self, view: memoryview, forms: _Forms, *, is_cdr: bool) -> None:
        self.view = view
        self.forms = forms
        self.is_cdr = is_cdr
        self.at = 0

    @classmethod
    def of(cls, data: bytes | memoryview, *, is_ros1: bool) -> Self:
        """At the begin of a message. Raises ValueError where it does not begin as CDR does."""
        view = memoryview(data)
        if is_ros1:
            return cls(view, _ROS1, is_cdr=False)
        if len(view) < 4 or view[0] or view[1] > 1:
            raise ValueError("the message does not begin as plain CDR does")
        return cls(view[4:], _CDR[view[1]], is_cdr=True)

    def take(self, form: Struct, alignment: int = 4) -> tuple[Any, ...]:
        if self.is_cdr:
            self.at = (self.at + alignment - 1) & -alignment
        found = form.unpack_from(self.view, self.at)
        self.at += form.size
        return found

    def text(self) -> str:
        return self._text(*self.take(self.forms.length))

    def _text(self, length: int) -> str:
        begin, end = self._pass_over(length)
        if not self.is_cdr:
            return str(self.view[begin:end], "utf-8")
        if begin == end or self.view[end - 1]:
            raise ValueError(f"the string at byte {begin} does not end with a zero")
        return str(self.view[begin : end - 1], "utf-8")

    def payload(self) -> Bytes:
        begin, end = self._pass_over(*self.take(self.forms.length))
        return np.frombuffer(self.view[begin:end], dtype=np.uint8)

    def rows(self, count: int, kind: np.dtype[Any], stride: int) -> NDArray[Any]:
        """(count,) of `kind`, each `stride` bytes behind the one before. The cursor stays."""
        if count and self.at + (count - 1) * stride + kind.itemsize > len(self.view):
            raise ValueError(f"the message is too short for {count} rows")
        found: NDArray[Any] = np.ndarray(count, dtype=kind, buffer=self.view, offset=self.at, strides=(stride,))
        return found

    def header(self) -> Header:
        seconds, nanoseconds, length = self.take(self.forms.header)
        return Header(Stamp(seconds, nanoseconds), self._text(length))

    def end(self) -> None:
        """Raises ValueError where more follows than the padding of CDR."""
        left = len(self.view) - self.at
        if left < 0 or left > (3 if self.is_cdr else 0):
            raise ValueError(f"the message has {len(self.view)} bytes, its content {self.at}")

    def _pass_over(self, length: int) -> tuple[int, int]:
        """Where the next `length` bytes begin and end."""
        begin = self.at
        self.at += length
        if self.at > len(self.view):
            raise ValueError(f"{length} bytes are declared at byte {begin}, {len(self.view) - begin} are there")
        return begin, self.at


def read_cloud(cursor: Cursor) -> Cloud:
    forms, header = cursor.forms, cursor.header()
    height, width = cursor.take(forms.size)
    (count,) = cursor.take(forms.length)
    fields = tuple(Field(cursor.text(), *cursor.take(forms.field)) for _ in range(count))
    is_bigendian, step, row_step = cursor.take(forms.steps, 1)
    data = cursor.payload()
    (is_dense,) = cursor.take(forms.flag, 1)
    return Cloud(header, height, width, fields, bool(is_bigendian), step, row_step, data, bool(is_dense))


def read_compressed_image(cursor: Cursor) -> CompressedImage:
    return CompressedImage(cursor.header(), cursor.text(), cursor.payload())


def read_image(cursor: Cursor) -> Image:
    header = cursor.header()
    height, width = cursor.take(cursor.forms.size)
    encoding = cursor.text()
    (is_bigendian,) = cursor.take(cursor.forms.flag, 1)
    (step,) = cursor.take(cursor.forms.length)
    return Image(header, height, width, encoding, is_bigendian, step, cursor.payload())


def read_odometry(cursor: Cursor) -> Odometry:
    header, child = cursor.header(), cursor.text()
    numbers = cursor.take(cursor.forms.motion, 8)
    return Odometry(header, child, numbers[:3], numbers[3:7], numbers[7:10], numbers[10:])


def read_radar_scan(cursor: Cursor) -> RadarScan:
    header = cursor.header()
    (count,) = cursor.take(cursor.forms.length)
    kind = cursor.forms.radar_return
    returns = cursor.rows(count, kind, kind.itemsize)
    cursor.at += count * kind.itemsize
    return RadarScan(header, returns)


def read_radar_tracks(cursor: Cursor) -> RadarTracks:
    header = cursor.header()
    (count,) = cursor.take(cursor.forms.length)
    if not count:
        return RadarTracks(header, np.zeros(0, dtype=cursor.forms.track))
    cursor.at += _UUID_BYTES
    cursor.at += -cursor.at % 8 if cursor.is_cdr else 0
    # In CDR 2 bytes lie behind the class, and 4 behind each id: once a vector is aligned, so are those that follow.
    size = _TRACK_BYTES + 2 * cursor.is_cdr
    stride = size + _UUID_BYTES + 4 * cursor.is_cdr
    tracks = cursor.rows(count, cursor.forms.track, stride)
    cursor.at += (count - 1) * stride + size
    return RadarTracks(header, tracks)
