"""Whatever arrives on a queue is either an item or a QueueError: nothing else, ever."""

import re
import struct
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues import perception_result_pb2 as pb
from perception.queues.checks import MAX_PAYLOAD_BYTES
from perception.queues.codec import decode, encode
from perception.queues.json_form import from_json, to_json
from perception.queues.memory import MemoryQueue
from perception.queues.open import subscribe
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


def varint(number: int) -> bytes:
    """Base 128, low digits first, as protobuf writes lengths, tags and integers."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def part(field: int, body: bytes) -> bytes:
    """A field of wire type 2: text, message or packed numbers."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def result_of(body: bytes) -> bytes:
    """A `QueueItem` around the bytes of a result."""
    return b"\x08\x01" + part(2, body)


FILLED = MAX_PAYLOAD_BYTES - 64
DETECTION = pb.Detection(label="car", center_m=[1, 2, 3], size_m=[1, 2, 3], velocity_mps=[1, 2]).SerializeToString()
SENSOR = pb.SensorStatus(modality="lidar").SerializeToString()
HOSTILE = {
    "groups without end": b"\x9b\x06" * (FILLED // 2),
    "groups within a result": result_of(b"\x9b\x06" * 100_000 + b"\x9c\x06" * 100_000),
    "a group that ends another": b"\x08\x01\x9b\x06\xa4\x06",
    "messages 5000 deep": result_of(b"".join(varint(9 << 3 | 2) + varint(5000 - n) for n in range(5000))),
    "a length of 2 GiB": b"\x08\x01\x12" + varint(2**31 - 1) + b"\x00" * 50,
    "a length of 2^64 - 1": b"\x08\x01\x12" + varint(2**64 - 1),
    "a number without end": b"\x08" + b"\xff" * 1000,
    "field 0": b"\x08\x01\x02\x00",
    "wire type 7": b"\x08\x01\x17\x00",
    "text that is not UTF-8": result_of(part(1, b"\xff\xfe\xed\xa0\x80")),
    "a key that is not UTF-8": result_of(part(11, part(9, part(1, b"\xc3\x28") + b"\x10\x01"))),
    "text of 8 MiB": result_of(part(2, b"a" * (FILLED - 20))),
    "a modality of 8 MiB": result_of(part(9, part(2, b"a" * (FILLED - 40)))),
    "a label of 8 MiB": result_of(part(6, part(1, b"a" * (FILLED - 40)))),
    "millions of empty detections": result_of(b"\x32\x00" * (FILLED // 2 - 10)),
    "millions of empty hints": result_of(b"\x3a\x00" * (FILLED // 2 - 10)),
    "millions of empty waypoints": result_of(part(7, b"\x12\x00" * (FILLED // 2 - 20))),
    "millions of times": result_of(part(7, part(3, b"\x00" * (FILLED - 40)))),
    "a hundred thousand detections": result_of(part(6, DETECTION) * 100_000),
    "a hundred thousand sensors": result_of(part(9, SENSOR) * 100_000),
    "a hundred thousand causes": result_of(
        part(11, b"".join(part(9, part(1, str(cause).encode())) for cause in range(100_000)))
    ),
    "a speed that is no number": result_of(b"\x41" + struct.pack("<d", float("nan"))),
    "a schema of 2^32 - 1": b"\x08" + varint(2**32 - 1),
    "more than is ever taken": bytes(MAX_PAYLOAD_BYTES + 1),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_payload_is_refused_in_few_words_and_little_memory(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(QueueError) as refusal:
        decode(HOSTILE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(refusal.value)) < 500
    assert peak < 12 * MAX_PAYLOAD_BYTES


fields = st.integers(0, 12) | st.sampled_from([100, 2**29 - 1])
leaves = (
    st.builds(lambda field, value: varint(field << 3) + varint(value), fields, st.integers(0, 2**64 - 1))
    | st.builds(lambda field, value: varint(field << 3 | 1) + value, fields, st.binary(min_size=8, max_size=8))
    | st.builds(lambda field, value: varint(field << 3 | 5) + value, fields, st.binary(min_size=4, max_size=4))
    | st.builds(part, fields, st.sampled_from([b"car", b"lidar", b"poses", b"\xff", b""]) | st.binary(max_size=20))
    | st.builds(lambda field, end: varint(field << 3 | end), fields, st.sampled_from([3, 4, 6, 7]))
    | st.builds(lambda field, size: varint(field << 3 | 2) + varint(size), fields, st.integers(0, 2**64))
)
wires = st.recursive(
    leaves,
    lambda inner: st.builds(part, fields, st.lists(inner, max_size=4).map(b"".join)),
    max_leaves=20,
)


@given(st.lists(wires, max_size=6).map(b"".join), st.booleans())
def test_any_fields_in_any_order_are_refused_or_an_item(wire: bytes, is_within_a_result: bool) -> None:
    assert fate(decode, result_of(wire) if is_within_a_result else wire) in ("refused", "passed on")


@given(st.integers(0, len(RESULT)), st.lists(wires, max_size=3).map(b"".join))
def test_a_result_with_something_in_its_middle_is_refused_or_an_item(position: int, wire: bytes) -> None:
    assert fate(decode, RESULT[:position] + wire + RESULT[position:]) in ("refused", "passed on")


damage = st.lists(st.tuples(st.integers(0, len(RESULT) - 1), st.integers(0, 255)), min_size=1, max_size=8)


def damaged(edits: list[tuple[int, int]]) -> bytes:
    payload = bytearray(RESULT)
    for position, value in edits:
        payload[position] = value
    return bytes(payload)


def live(payloads: list[bytes]) -> tuple[list[QueueItem], int, int]:
    """What a consumer gets of five results with payloads of a stranger between them, its gaps and its malformed."""
    url = f"memory:{uuid.uuid4().hex}"
    subscription = subscribe(url, timeout_s=60, follow=True)
    queue = MemoryQueue(url.partition(":")[2], QueueConfig())
    rng = np.random.default_rng(0)
    for sequence in range(5):
        queue.publish(sample_result(rng, sequence=sequence, run_id="ours", detections=1, modes=1))
        for payload in payloads[sequence::5]:
            queue.send(payload)
    queue.publish(EndOfRun(drive_id="sample-drive", run_id="ours", count=5, reason="completed"))
    got: list[QueueItem] = []
    for item in subscription:
        got.append(item)
        if isinstance(item, EndOfRun) and item.run_id == "ours":
            break
    queue.close()
    return got, subscription.gaps, subscription.malformed  # type: ignore[attr-defined]


@given(st.lists(damage.map(damaged) | wires | st.sampled_from(list(HOSTILE.values())[:10]), max_size=10))
def test_a_live_consumer_loses_nothing_to_a_stranger(payloads: list[bytes]) -> None:
    got, _, malformed = live(payloads)
    ours = [item for item in got if item.run_id == "ours"]
    assert [item.sequence for item in ours if not isinstance(item, EndOfRun)] == list(range(5))
    assert malformed == sum(fate(decode, payload) == "refused" for payload in payloads)


def test_a_live_consumer_outlives_every_hostile_payload() -> None:
    got, gaps, malformed = live(list(HOSTILE.values()))
    assert (len(got), gaps, malformed) == (6, 0, len(HOSTILE))


def test_nothing_on_a_queue_is_unpickled_or_evaluated() -> None:
    calls = re.compile(
        r"\b(pickle|cPickle|dill|marshal|shelve|yaml|joblib)\b|(?<![.\w])(eval|exec|compile|__import__)\("
    )
    sources = sorted((Path(__file__).resolve().parents[2] / "perception" / "queues").glob("*.py"))
    assert {"codec.py", "subscription.py"} <= {path.name for path in sources}
    found = [f"{path.name}: {hit.group()}" for path in sources for hit in calls.finditer(path.read_text("utf-8"))]
    assert found == []
