"""The frequent messages of bags are decoded as rosbags decodes them, whatever is in them and wherever they lie."""

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.rosbag_storage import Record, Topic
from perception.sources.rosbag_types import (
    COMPRESSED_IMAGE,
    IMAGE,
    ODOMETRY,
    POINT_CLOUD,
    RADAR_RETURN,
    RADAR_SCAN,
    RADAR_TRACK,
    RADAR_TRACKS,
    decode,
)
from tests.unit.small_bag import Ros

U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
F64 = st.floats(allow_nan=False)
F32 = st.floats(allow_nan=False, width=32)
DATA = st.binary(max_size=40).map(lambda data: np.frombuffer(data, dtype=np.uint8))
FORMS = ("ros1", "little", "big")
"""As ROS 1 packs messages; CDR in either order of bytes."""


def _header(draw: st.DrawFn, ros: Ros) -> Any:
    stamp = ros.make("builtin_interfaces/msg/Time", sec=draw(st.integers(0, 2**31 - 1)), nanosec=draw(U32))
    sequence = {"seq": draw(U32)} if ros.kind == "ros1" else {}
    return ros.make("std_msgs/msg/Header", stamp=stamp, frame_id=draw(TEXT), **sequence)


def _vector(draw: st.DrawFn, ros: Ros, kind: str = "Vector3") -> Any:
    return ros.vector([draw(F64) for _ in range(3)], kind)


def _cloud(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    byte = st.integers(0, 255)
    fields = [
        ros.make("sensor_msgs/msg/PointField", name=draw(TEXT), offset=draw(U32), datatype=draw(byte), count=draw(U32))
        for _ in range(draw(st.integers(0, 4)))
    ]
    return {
        "height": draw(U32), "width": draw(U32), "fields": fields, "is_bigendian": draw(st.booleans()),
        "point_step": draw(U32), "row_step": draw(U32), "data": draw(DATA), "is_dense": draw(st.booleans()),
    }  # fmt: skip


def _compressed(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    return {"format": draw(TEXT), "data": draw(DATA)}


def _image(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    return {
        "height": draw(U32), "width": draw(U32), "encoding": draw(TEXT), "is_bigendian": draw(st.integers(0, 255)),
        "step": draw(U32), "data": draw(DATA),
    }  # fmt: skip


def _odometry(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    w, x, y, z = (draw(F64) for _ in range(4))
    pose = ros.make(
        "geometry_msgs/msg/Pose",
        position=_vector(draw, ros, "Point"),
        orientation=ros.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
    )
    twist = ros.make("geometry_msgs/msg/Twist", linear=_vector(draw, ros), angular=_vector(draw, ros))
    rest = np.arange(36.0)
    return {
        "child_frame_id": draw(TEXT),
        "pose": ros.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=rest),
        "twist": ros.make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=rest),
    }


def _scan(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    count = draw(st.integers(0, 4))
    return {"returns": [ros.make(RADAR_RETURN, **{name: draw(F32) for name in names}) for _ in range(count)]}


def _tracks(draw: st.DrawFn, ros: Ros) -> dict[str, Any]:
    names = ("position_covariance", "velocity_covariance", "acceleration_covariance", "size_covariance")
    tracks = [
        ros.make(
            RADAR_TRACK,
            uuid=ros.make("unique_identifier_msgs/msg/UUID", uuid=np.arange(16, dtype=np.uint8)),
            position=_vector(draw, ros, "Point"),
            classification=draw(st.integers(0, 2**16 - 1)),
            **{name: _vector(draw, ros) for name in ("velocity", "acceleration", "size")},
            **{name: np.arange(6, dtype=np.float32) for name in names},
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    return {"tracks": tracks}


BUILDERS = {
    POINT_CLOUD: _cloud, COMPRESSED_IMAGE: _compressed, IMAGE: _image, ODOMETRY: _odometry, RADAR_SCAN: _scan,
    RADAR_TRACKS: _tracks,
}  # fmt: skip


@st.composite
def serialized(draw: st.DrawFn, form: str, kind: str) -> tuple[Ros, bytes]:
    ros = Ros("ros1" if form == "ros1" else "mcap")
    message = ros.make(kind, header=_header(draw, ros), **BUILDERS[kind](draw, ros))
    if form == "ros1":
        return ros, bytes(ros.store.serialize_ros1(message, kind))
    return ros, bytes(ros.store.serialize_cdr(message, kind, little_endian=form == "little"))


def _ours(ros: Ros, kind: str, data: bytes | memoryview) -> Any:
    topic = Topic(name="/topic", type_name=kind, is_ros1=ros.kind == "ros1")
    return decode(topic, Record(topic="/topic", log_ns=0, data=data))


def _rosbags(ros: Ros, kind: str, data: bytes) -> Any:
    read = ros.store.deserialize_ros1 if ros.kind == "ros1" else ros.store.deserialize_cdr
    return read(data, kind)


def _flat(message: Any) -> tuple[Any, ...]:
    """What both ways to decode have, as numbers, texts and bytes."""
    stamp = message.header.stamp
    found: list[Any] = [stamp.sec, stamp.nanosec, message.header.frame_id]
    if hasattr(message, "fields"):
        found += [(field.name, field.offset, field.datatype, field.count) for field in message.fields]
    names = ("height", "width", "is_bigendian", "point_step", "row_step", "is_dense", "format", "encoding", "step")
    found += [getattr(message, name) for name in names if hasattr(message, name)]
    return (*found, message.data.tobytes()) if hasattr(message, "data") else tuple(found)


def _xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


def _same_numbers(kind: str, found: Any, expected: Any) -> bool:
    """Whether the numbers of odometry and radar are equal."""
    if kind == ODOMETRY:
        pose, twist = expected.pose.pose, expected.twist.twist
        turn = [*_xyz(pose.orientation), pose.orientation.w]
        return (
            found.child_frame_id == expected.child_frame_id
            and list(found.position_m) == _xyz(pose.position)
            and list(found.quaternion_xyzw) == turn
            and [*found.linear_mps, *found.angular_radps] == [*_xyz(twist.linear), *_xyz(twist.angular)]
        )
    if kind == RADAR_SCAN:
        rows: NDArray[Any] = found.returns
        return all([getattr(e, n) for e in expected.returns] == rows[n].tolist() for n in rows.dtype.names or ())
    if kind == RADAR_TRACKS:
        return all(
            [_xyz(getattr(track, name)) for track in expected.tracks] == found.tracks[name].tolist()
            for name in ("position", "velocity")
        )
    return True


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_it_is_what_rosbags_decodes(kind: str, form: str, data: st.DataObject) -> None:
    ros, content = data.draw(serialized(form, kind))
    found, expected = _ours(ros, kind, content), _rosbags(ros, kind, content)
    assert _flat(found) == _flat(expected)
    assert _same_numbers(kind, found, expected)
    # In a block, messages begin anywhere.
    shifted = memoryview(b"\0" + content)[1:]
    assert _flat(_ours(ros, kind, shifted)) == _flat(expected)


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_damaged_is_refused_or_read_and_nothing_else(kind: str, form: str, data: st.DataObject) -> None:
    ros, content = data.draw(serialized(form, kind))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(PayloadError):
        _ours(ros, kind, bytes(damaged))


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_what_is_cut_short_or_too_long_is_refused(kind: str, form: str, data: st.DataObject) -> None:
    ros, content = data.draw(serialized(form, kind))
    with pytest.raises(PayloadError, match=kind):
        _ours(ros, kind, content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(PayloadError, match=kind):
        _ours(ros, kind, content + bytes(4))
