"""Detections packed and read all at once are what the protobuf library writes and reads one by one."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.results import Detections
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.queues import perception_result_pb2 as pb
from perception.queues.detection_wire import pack_detections, read_detections
from perception.queues.samples import sample_result

COLUMNS = Detections.__slots__


def message_of(detections: Detections, row: int) -> pb.Detection:
    detection = list(detections)[row]
    return pb.Detection(
        label=detection.label,
        score=detection.score,
        center_m=detection.center_m,
        size_m=detection.size_m,
        yaw_rad=detection.yaw_rad,
        velocity_mps=detection.velocity_mps,
        attribute=detection.attribute,
        track_id=detection.track_id,
    )


def assert_same(got: Detections, wanted: Detections) -> None:
    for name in COLUMNS:
        assert getattr(got, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), err_msg=name)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_it_writes_the_bytes_of_the_protobuf_library(seed: int, count: int) -> None:
    detections = sample_result(np.random.default_rng(seed), sequence=0, detections=count).detections
    packed = pack_detections(detections)
    assert packed == [message_of(detections, row).SerializeToString() for row in range(count)]
    assert_same(read_detections(packed), detections)


def one(**changes: object) -> Detections:
    columns = {name: getattr(ONE, name) for name in COLUMNS}
    return Detections(**{**columns, **{name: np.array(value, columns[name].dtype) for name, value in changes.items()}})


ONE = sample_result(np.random.default_rng(1), sequence=0, detections=1).detections


@pytest.mark.parametrize("track", [0, 127, 128, 16_384, 2**31, 2**63 - 1, -2, -(2**63)])
def test_every_track_comes_back(track: int) -> None:
    detections = one(track_id=[track])
    packed = pack_detections(detections)
    assert pb.Detection.FromString(packed[0]).track_id == track
    assert_same(read_detections(packed), detections)


def test_every_label_and_attribute_comes_back() -> None:
    for label in range(len(CLASSES)):
        for attribute in range(-1, len(ATTRIBUTES)):
            detections = one(class_index=[label], attribute_index=[attribute])
            assert_same(read_detections(pack_detections(detections)), detections)


def test_zeros_are_read_whether_written_or_left_out() -> None:
    detections = one(score=[0.0], yaw_rad=[0.0], velocity_mps=[[0.0, 0.0]])
    assert_same(read_detections(pack_detections(detections)), detections)
    left_out = message_of(detections, 0).SerializeToString()
    assert left_out != pack_detections(detections)[0]
    assert_same(read_detections([left_out]), detections)


def test_other_layouts_and_fields_of_newer_writers_are_read() -> None:
    message = message_of(ONE, 0)
    fields = [pb.Detection(), pb.Detection()]
    fields[0].track_id, fields[1].label = message.track_id, message.label
    reordered = fields[0].SerializeToString() + message.SerializeToString()
    unpacked = pb.Detection(label="car", size_m=(1, 2, 3), velocity_mps=(4, 5)).SerializeToString()
    unpacked += b"".join(b"\x1d" + np.float32(value).tobytes() for value in (7, 8, 9))
    newer = message.SerializeToString() + b"\xa2\x06\x05hello"
    got = read_detections([reordered, unpacked, newer])
    assert got.center_m.tolist() == [ONE.center_m[0].tolist(), [7, 8, 9], ONE.center_m[0].tolist()]
    assert got.track_id[[0, 2]].tolist() == [ONE.track_id[0]] * 2


@pytest.mark.parametrize("end", [b"\x3a\x03abc", b"\x3a\x0evehicle.moving\x3a\x03abc", b"\x3a\xff"])
def test_an_attribute_that_is_none_is_refused(end: bytes) -> None:
    whole = pack_detections(one(attribute_index=[-1], track_id=[-1]))[0]
    with pytest.raises((ValueError, DecodeError)):
        read_detections([whole + end])


@given(st.binary(max_size=80), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_detection_are_refused_as_by_the_protobuf_library(noise: bytes, place: int) -> None:
    whole = pack_detections(ONE)[0]
    broken = whole[:place] + noise + whole[place + len(noise) :]
    try:
        message = pb.Detection.FromString(broken)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_detections([broken])
        return
    try:
        got = read_detections([broken])
    except ValueError:
        return
    assert CLASSES[got.class_index[0]] == message.label
    np.testing.assert_array_equal(got.center_m[0], np.array(message.center_m, np.float32))
    assert got.yaw_rad[0] == np.float32(message.yaw_rad) or np.isnan(got.yaw_rad[0])
    assert got.track_id[0] == (message.track_id if message.HasField("track_id") else -1)
