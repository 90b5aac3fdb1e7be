"""Long fields are taken out of protobuf messages as the library would take them, and nonsense is an error."""

import pytest
from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from perception.core.errors import PayloadError
from perception.formats.wire import without_fields

DATA = PointCloud.DATA_FIELD_NUMBER


@st.composite
def clouds(draw: st.DrawFn) -> PointCloud:
    cloud = PointCloud(frame_id=draw(st.text(max_size=200)), point_stride=draw(st.integers(0, 2**32 - 1)))
    cloud.data = draw(st.binary(max_size=400))
    cloud.timestamp.FromNanoseconds(draw(st.integers(0, 2**62)))
    cloud.pose.position.x = draw(st.floats(allow_nan=False))
    for name in draw(st.lists(st.text(max_size=5), max_size=5)):
        cloud.fields.add(name=name, offset=len(name), type=7)
    return cloud


@given(cloud=clouds())
def test_a_message_is_its_field_and_the_rest(cloud: PointCloud) -> None:
    rest, (data,) = without_fields(cloud.SerializeToString(), DATA)
    assert bytes(data) == cloud.data
    without = PointCloud.FromString(rest)
    assert without.data == b""
    without.data = bytes(data)
    assert without == cloud


@given(cloud=clouds())
def test_several_fields_go_at_once(cloud: PointCloud) -> None:
    rest, (data, stamp) = without_fields(cloud.SerializeToString(), DATA, PointCloud.TIMESTAMP_FIELD_NUMBER)
    assert (bytes(data), bytes(stamp)) == (cloud.data, cloud.timestamp.SerializeToString())
    cloud.ClearField("data")
    cloud.ClearField("timestamp")
    assert PointCloud.FromString(rest) == cloud


@given(first=st.binary(max_size=300), last=st.binary(max_size=300))
def test_of_a_field_that_comes_twice_the_last_counts(first: bytes, last: bytes) -> None:
    twice = PointCloud(data=first).SerializeToString() + b"\x32" + _varint(len(last)) + last
    rest, (data,) = without_fields(twice, DATA)
    assert (rest, bytes(data)) == (b"", PointCloud.FromString(twice).data)


@given(junk=st.binary(max_size=60))
def test_what_the_library_takes_is_taken_and_nothing_else_breaks(junk: bytes) -> None:
    try:
        expected = PointCloud.FromString(junk).data
    except DecodeError:
        expected = None
    try:
        _, (data,) = without_fields(junk, DATA)
    except PayloadError:
        return
    assert expected is None or bytes(data) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x32\x05abc", "within a field"),
        (b"\x32", "within a number"),
        (b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than 64 bits"),
        (b"\x33", "unknown kind 3"),
        (b"\x09\x00", "within a field"),
    ],
)
def test_nonsense_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        without_fields(content, DATA)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
