"""Detections and path hints written and read all at once are what the protobuf library writes and reads one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.errors import QueueError
from perception.core.results import Detections, PathHints, PerceptionResult
from perception.core.taxonomy import ATTRIBUTES, CLASSES
from perception.queues import detection_wire, hint_wire
from perception.queues import perception_result_pb2 as pb
from perception.queues.codec import decode, encode
from perception.queues.detection_wire import pack_detections
from perception.queues.hint_wire import pack_hints
from perception.queues.samples import sample_result
from perception.queues.wire_columns import COLUMNS, FRAMES, framed

COLUMN_NAMES = Detections.__slots__
HINT_NAMES = ("confidence", "waypoints_m", "times_s")
LARGE = st.sampled_from([0, 1, 127, 128, 16_384, 2**31, 2**49, 2**63 - 1, -2, -(2**63)])
numbers = st.floats(-(2.0**99), 2.0**99, width=32)
not_zero = numbers.filter(bool)
"""The library leaves out a number that is zero, where it is alone; `pack_detections` does not."""


@st.composite
def all_detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 12))

    def rows(values: st.SearchStrategy[float] | st.SearchStrategy[int], width: int) -> list[list[float]]:
        return draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=count, max_size=count))

    def column(values: st.SearchStrategy[float] | st.SearchStrategy[int], width: int, dtype: type) -> np.ndarray:
        return np.array(rows(values, width), dtype=dtype).reshape(count, width)

    return Detections(
        class_index=column(st.integers(0, len(CLASSES) - 1), 1, np.int64)[:, 0],
        score=column(st.floats(2.0**-10, 1, width=32), 1, np.float32)[:, 0],
        center_m=column(numbers, 3, np.float32),
        size_m=column(numbers, 3, np.float32),
        yaw_rad=column(not_zero, 1, np.float32)[:, 0],
        velocity_mps=column(numbers, 2, np.float32),
        attribute_index=column(st.integers(-1, len(ATTRIBUTES) - 1), 1, np.int64)[:, 0],
        track_id=column(st.integers(-1, 10_000) | LARGE, 1, np.int64)[:, 0],
    )


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


def hints_of(modes: int, waypoints: int, seed: int) -> PathHints:
    rng = np.random.default_rng(seed)
    return PathHints(
        confidence=rng.uniform(0.1, 1, modes).astype(np.float32),
        waypoints_m=rng.normal(0, 20, (modes, waypoints, 2)).astype(np.float32),
        times_s=rng.uniform(0.1, 9, waypoints).astype(np.float32),
        target_speed_mps=3.0,
    )


def hint_messages(hints: PathHints) -> list[pb.PathHint]:
    return [
        pb.PathHint(
            confidence=confidence,
            waypoints_m=[pb.Waypoint(x=x, y=y) for x, y in waypoints],
            times_s=hints.times_s.tolist(),
        )
        for confidence, waypoints in zip(hints.confidence.tolist(), hints.waypoints_m.tolist(), strict=True)
    ]


def read(messages: list[bytes]) -> Detections:
    """By the whole codec, in a result that holds nothing else."""
    provenance = pb.Provenance(ego_motion="none").SerializeToString()
    body = b"".join(framed(0x32, message) for message in messages) + framed(0x5A, provenance)
    item = decode(b"\x08\x01" + framed(0x12, body))
    assert isinstance(item, PerceptionResult)
    return item.detections


def read_fast(messages: list[bytes]) -> Detections | None:
    payload = b"\x08\x01" + framed(0x12, b"".join(framed(0x32, message) for message in messages))
    columns, frames = COLUMNS.FromString(payload), FRAMES.FromString(payload)
    return detection_wire.read_columns(columns.result.detections, frames.result.detections)


def packed_one_by_one(detections: Detections) -> list[bytes]:
    return [bytes(m) for m in FRAMES.FromString(framed(0x12, pack_detections(detections))).result.detections]


def assert_same(got: Detections | None, wanted: Detections) -> None:
    assert got is not None
    for name in COLUMN_NAMES:
        assert getattr(got, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), err_msg=name)


@given(all_detections())
@settings(deadline=None)
def test_detections_are_the_bytes_of_the_protobuf_library_and_come_back(detections: Detections) -> None:
    messages = [message_of(detections, row) for row in range(len(detections))]
    assert pack_detections(detections) == pb.PerceptionResult(detections=messages).SerializeToString()
    assert_same(read_fast(packed_one_by_one(detections)), detections)
    assert_same(detection_wire.read_messages(messages), detections)


@given(modes=st.integers(0, 9), waypoints=st.integers(0, 40), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_hints_are_the_bytes_of_the_protobuf_library_and_come_back(modes: int, waypoints: int, seed: int) -> None:
    hints = hints_of(modes, waypoints if modes else 0, seed)
    packed = pack_hints(hints)
    assert packed == pb.PerceptionResult(path_hints=hint_messages(hints)).SerializeToString()
    columns, frames = COLUMNS.FromString(framed(0x12, packed)), FRAMES.FromString(framed(0x12, packed))
    got = hint_wire.read_columns(columns.result.path_hints, frames.result.path_hints, 3.0)
    for read_hints in (got, hint_wire.read_messages(hint_messages(hints), 3.0)):
        assert read_hints is not None
        for name in HINT_NAMES:
            assert getattr(read_hints, name).dtype == np.float32
            np.testing.assert_array_equal(getattr(read_hints, name), getattr(hints, name))


@given(seed=st.integers(0, 2**32), count=st.integers(0, 40), modes=st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_a_whole_result_is_the_bytes_of_the_protobuf_library(seed: int, count: int, modes: int) -> None:
    payload = encode(sample_result(np.random.default_rng(seed), sequence=1, detections=count, modes=modes))
    assert pb.QueueItem.FromString(payload).SerializeToString(deterministic=True) == payload


optional_numbers = st.just(0.0) | numbers
messages = st.builds(
    pb.Detection,
    label=st.sampled_from(["car", "traffic_cone", "pedestrian", ""]),
    score=optional_numbers,
    center_m=st.sampled_from([(1, 2, 3), (0, 0, 0), ()]),
    size_m=st.tuples(numbers, numbers, numbers),
    yaw_rad=optional_numbers,
    velocity_mps=st.sampled_from([(1, 2), ()]),
    attribute=st.none() | st.sampled_from([*ATTRIBUTES, ""]),
    track_id=st.none() | st.integers(-3, 300) | LARGE,
)


@given(st.lists(messages, max_size=8))
@settings(max_examples=300, deadline=None)
def test_what_is_read_as_columns_is_what_is_read_one_by_one(messages: list[pb.Detection]) -> None:
    got = read_fast([message.SerializeToString() for message in messages])
    if got is not None:
        assert_same(got, detection_wire.read_messages(messages))


def one(**changes: object) -> Detections:
    columns = {name: getattr(ONE, name) for name in COLUMN_NAMES}
    return Detections(**{**columns, **{name: np.array(value, columns[name].dtype) for name, value in changes.items()}})


ONE = sample_result(np.random.default_rng(1), sequence=0, detections=1).detections


def test_every_label_and_attribute_comes_back() -> None:
    for label in range(len(CLASSES)):
        for attribute in range(-1, len(ATTRIBUTES)):
            for track in (-1, 2**63 - 1, -2):
                detections = one(class_index=[label], attribute_index=[attribute], track_id=[track])
                assert_same(read_fast(packed_one_by_one(detections)), detections)


def test_zeros_are_read_whether_written_or_left_out() -> None:
    detections = one(score=[0.0], yaw_rad=[0.0], velocity_mps=[[0.0, 0.0]])
    assert_same(read(packed_one_by_one(detections)), detections)
    left_out = message_of(detections, 0).SerializeToString()
    assert left_out != packed_one_by_one(detections)[0]
    assert_same(read([left_out]), detections)


def test_hints_whose_zeros_are_left_out_are_read() -> None:
    hints = PathHints(
        confidence=np.array([1, 0], np.float32),
        waypoints_m=np.zeros((2, 3, 2), np.float32),
        times_s=np.array([0, 1, 2], np.float32),
        target_speed_mps=0.0,
    )
    result = pb.PerceptionResult(path_hints=hint_messages(hints), provenance=pb.Provenance(ego_motion="none"))
    item = decode(pb.QueueItem(schema=1, result=result).SerializeToString())
    assert isinstance(item, PerceptionResult)
    for name in HINT_NAMES:
        np.testing.assert_array_equal(getattr(item.path_hints, name), getattr(hints, name))


def test_other_layouts_and_fields_of_newer_writers_are_read() -> None:
    message = message_of(ONE, 0)
    message.score = 0.5
    fields = [pb.Detection(), pb.Detection()]
    fields[0].track_id, fields[1].label = message.track_id, message.label
    reordered = fields[0].SerializeToString() + message.SerializeToString()
    unpacked = pb.Detection(label="car", size_m=(1, 2, 3), velocity_mps=(4, 5)).SerializeToString()
    unpacked += b"".join(b"\x1d" + np.float32(value).tobytes() for value in (7, 8, 9))
    newer = message.SerializeToString() + b"\xa2\x06\x05hello"
    got = read([reordered, unpacked, newer])
    assert got.center_m.tolist() == [ONE.center_m[0].tolist(), [7, 8, 9], ONE.center_m[0].tolist()]
    assert got.track_id[[0, 2]].tolist() == [ONE.track_id[0]] * 2


@given(all_detections(), st.data())
@settings(deadline=None)
def test_fields_of_newer_writers_change_nothing(detections: Detections, data: st.DataObject) -> None:
    unknown = st.binary(max_size=30).map(lambda content: b"\x7a" + bytes([len(content)]) + content) | st.just(b"")
    newer = [message + data.draw(unknown) for message in packed_one_by_one(detections)]
    assert_same(read(newer), detections)


@pytest.mark.parametrize("end", [b"\x3a\x03abc", b"\x3a\x0evehicle.moving\x3a\x03abc", b"\x3a\xff"])
def test_an_attribute_that_is_none_is_refused(end: bytes) -> None:
    whole = packed_one_by_one(one(attribute_index=[-1], track_id=[-1]))[0]
    with pytest.raises(QueueError):
        read([whole + end])


@given(st.binary(max_size=80), st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_detection_are_refused_or_read_as_by_the_protobuf_library(noise: bytes, place: int) -> None:
    whole = packed_one_by_one(ONE)[0]
    broken = whole[:place] + noise + whole[place + len(noise) :]
    try:
        got = read([broken])
    except QueueError:
        return
    message = pb.Detection.FromString(broken)
    assert CLASSES[got.class_index[0]] == message.label
    np.testing.assert_array_equal(got.center_m[0], np.array(message.center_m, np.float32))
    assert got.yaw_rad[0] == np.float32(message.yaw_rad)
    assert got.track_id[0] == (message.track_id if message.HasField("track_id") else -1)
