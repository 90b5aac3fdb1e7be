"""Whatever arrives on a queue is either an item or a QueueError: nothing else, ever."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perception.core.errors import QueueError
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues import perception_result_pb2 as pb
from perception.queues.codec import decode, encode
from perception.queues.json_form import from_json, to_json
from perception.queues.samples import sample_result

Payload = TypeVar("Payload", bytes, str)

RESULT = encode(sample_result(np.random.default_rng(0), sequence=3, detections=4, modes=2))
LINE = to_json(decode(RESULT))
numbers = st.floats(width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0, 3e38])
texts = st.text(max_size=8) | st.sampled_from(["car", "vehicle.moving", "lidar", "poses"])
vectors = st.lists(numbers, max_size=4)
doubles = st.lists(st.floats(), max_size=5)
detections = st.builds(
    pb.Detection,
    label=st.sampled_from(["car", "dragon", ""]),
    score=st.floats(0, 1, width=32) | numbers,
    center_m=vectors,
    size_m=vectors,
    yaw_rad=numbers,
    velocity_mps=vectors,
    attribute=st.none() | texts,
    track_id=st.none() | st.integers(-(2**63), 2**63 - 1),
)
hints = st.builds(
    pb.PathHint,
    confidence=numbers,
    waypoints_m=st.lists(st.builds(pb.Waypoint, x=numbers, y=numbers), max_size=3),
    times_s=vectors,
)
results = st.builds(
    pb.PerceptionResult,
    drive_id=texts,
    sequence=st.integers(0, 2**64 - 1),
    detections=st.lists(detections, max_size=3),
    path_hints=st.lists(hints, max_size=3),
    target_speed_mps=st.floats(),
    sensors=st.lists(st.builds(pb.SensorStatus, name=texts, modality=texts, frequency_hz=st.floats()), max_size=2),
    world_SE3_ego=st.none() | st.builds(pb.Pose, position_m=doubles, quaternion_wxyz=doubles),
    provenance=st.none()
    | st.builds(pb.Provenance, ego_motion=texts, dropped=st.dictionaries(texts, st.integers(0, 9))),
)


def fate(read: Callable[[Payload], QueueItem], payload: Payload) -> str:
    """`refused` by a QueueError, or `passed on` where what was read can be sent again in either form."""
    try:
        item = read(payload)
    except QueueError:
        return "refused"
    again = decode(encode(item)), from_json(to_json(item))
    return "passed on" if {type(item)} == set(map(type, again)) else f"{item} became {again}"


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_an_item(payload: bytes) -> None:
    assert fate(decode, payload) in ("refused", "passed on")


@given(st.lists(st.tuples(st.integers(0, len(RESULT) - 1), st.integers(0, 255)), min_size=1, max_size=8), st.data())
def test_a_damaged_result_is_refused_or_an_item(edits: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(RESULT)
    for position, value in edits:
        damaged[position] = value
    cut = data.draw(st.integers(0, len(damaged)))
    assert fate(decode, bytes(damaged)) in ("refused", "passed on")
    assert fate(decode, bytes(damaged[:cut])) in ("refused", "passed on")


@given(results)
def test_well_formed_nonsense_is_refused_or_an_item(message: pb.PerceptionResult) -> None:
    payload = pb.QueueItem(schema=1, result=message).SerializeToString()
    assert fate(decode, payload) in ("refused", "passed on")


@given(st.integers(0, len(LINE) - 1), st.text(max_size=3))
def test_a_damaged_line_is_refused_or_an_item(position: int, text: str) -> None:
    assert fate(from_json, LINE[:position] + text + LINE[position + 1 :]) in ("refused", "passed on")


def test_what_is_whole_is_passed_on_and_nothing_is_refused() -> None:
    assert fate(decode, RESULT) == fate(from_json, LINE) == "passed on"
    assert fate(decode, b"") == fate(from_json, "") == "refused"


anything = st.text(st.characters(exclude_categories=()))


@given(st.builds(EndOfRun, drive_id=anything, run_id=anything, count=st.integers(-1, 2**64), reason=anything))
def test_any_end_of_run_survives_or_is_refused(end: EndOfRun) -> None:
    try:
        payload, line = encode(end), to_json(end)
    except QueueError:
        return
    assert decode(payload) == end
    assert from_json(line) == end
