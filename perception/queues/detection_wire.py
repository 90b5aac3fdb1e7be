"""Detections to and from protobuf bytes, all rows at once: message by message it would take a millisecond each way.

What is written is what any protobuf library writes (https://protobuf.dev/programming-guides/encoding), fields in the
order of their numbers. What is read may be anything: rows that look different (fields left out, added, or in another
order) are parsed by the protobuf library.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError

from perception.core.results import NO_TRACK, Detections
from perception.core.taxonomy import ATTRIBUTE_INDEX, ATTRIBUTES, CLASS_INDEX, CLASSES, NO_ATTRIBUTE
from perception.queues import perception_result_pb2 as pb

NUMBERS = np.dtype(
    [
        ("score_tag", "u1"), ("score", "<f4"),
        ("center_tag", "<u2"), ("center_m", "<f4", 3),
        ("size_tag", "<u2"), ("size_m", "<f4", 3),
        ("yaw_tag", "u1"), ("yaw_rad", "<f4"),
        ("velocity_tag", "<u2"), ("velocity_mps", "<f4", 2),
    ]
)  # fmt: skip
"""The middle of a detection, between its label and its attribute: tags (and lengths) of fields 2 to 6, and values."""
VALUES = ("score", "center_m", "size_m", "yaw_rad", "velocity_mps")
TAGGED = np.array([(0x15, 0, 0x0C1A, 0, 0x0C22, 0, 0x2D, 0, 0x0832, 0)], dtype=NUMBERS)
"""One row with its tags and zeros."""
TAG_PLACES = np.flatnonzero(TAGGED.view(np.uint8))
TAG_BYTES = TAGGED.view(np.uint8)[TAG_PLACES]
LABEL_TAG = 0x0A
REMEMBERED_ENDS = 4096
"""Tracks live for many results, so that most ends were seen before."""
MAX_END = 64
"""Bytes; the end of a detection of ours is shorter."""


HEADS = [bytes([LABEL_TAG, len(name)]) + name.encode() for name in CLASSES]
CLASS_OF = {head: index for index, head in enumerate(HEADS)}


def pack_detections(detections: Detections) -> list[bytes]:
    """One serialized `Detection` for each row."""
    rows = np.repeat(TAGGED, len(detections))
    for name in VALUES:
        rows[name] = getattr(detections, name)
    numbers, size = rows.tobytes(), NUMBERS.itemsize
    places = range(0, len(numbers), size)
    classes = detections.class_index.tolist()
    ends = map(_end, detections.attribute_index.tolist(), detections.track_id.tolist())
    return [
        HEADS[index] + numbers[place : place + size] + end
        for index, place, end in zip(classes, places, ends, strict=True)
    ]


def read_detections(messages: Sequence[bytes]) -> Detections:
    """The detections in the bytes of `Detection` messages.

    Raises ValueError where one has a label or attribute that is none, or too few numbers; DecodeError where it is no
    message.
    """
    return _read_as_written(messages) or _read_any([pb.Detection.FromString(message) for message in messages])


def _read_as_written(messages: Sequence[bytes]) -> Detections | None:
    """None where one is not laid out as `pack_detections` does it."""
    size = NUMBERS.itemsize
    heads = [2 + message[1] if len(message) > 1 else 0 for message in messages]
    rows = list(zip(messages, heads, strict=True))
    classes = [CLASS_OF.get(message[:head]) for message, head in rows]
    ends = [_meaning(message[head + size : head + size + MAX_END]) for message, head in rows]
    numbers = b"".join([message[head : head + size] for message, head in rows])
    if len(numbers) < size * len(rows) or None in classes or None in ends:
        return None
    octets = np.frombuffer(numbers, dtype=np.uint8).reshape(len(rows), size)
    if not (octets[:, TAG_PLACES] == TAG_BYTES).all():
        return None
    columns = np.frombuffer(numbers, dtype=NUMBERS)
    attributes, tracks = zip(*ends, strict=True) if ends else ((), ())
    return Detections(
        class_index=np.array(classes, dtype=np.int64),
        attribute_index=np.array(attributes, dtype=np.int64),
        track_id=np.array(tracks, dtype=np.int64),
        **{name: columns[name].astype(np.float32) for name in VALUES},
    )


@lru_cache(REMEMBERED_ENDS)
def _end(attribute: int, track: int) -> bytes:
    message = pb.Detection()
    if attribute != NO_ATTRIBUTE:
        message.attribute = ATTRIBUTES[attribute]
    if track != NO_TRACK:
        message.track_id = track
    return bytes(message.SerializeToString())


@lru_cache(REMEMBERED_ENDS)
def _meaning(end: bytes) -> tuple[int, int] | None:
    """Attribute and track at the end of a detection; None where something else is there."""
    # By itself it is a detection of nothing else, which the protobuf library can read.
    message = pb.Detection()
    try:
        message.ParseFromString(end)
    except DecodeError:
        return None
    attribute = ATTRIBUTE_INDEX.get(message.attribute, NO_ATTRIBUTE)
    track = message.track_id if message.HasField("track_id") else NO_TRACK
    return (attribute, track) if _end(attribute, track) == end else None


def _read_any(messages: Sequence[pb.Detection]) -> Detections:
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    numbers: list[float] = []
    for message in messages:
        columns[0].append(_index("label", CLASS_INDEX, message.label))
        columns[1].append(
            _index("attribute", ATTRIBUTE_INDEX, message.attribute) if message.HasField("attribute") else NO_ATTRIBUTE
        )
        columns[2].append(message.track_id if message.HasField("track_id") else NO_TRACK)
        center, size, velocity = message.center_m, message.size_m, message.velocity_mps
        if len(center) != 3 or len(size) != 3 or len(velocity) != 2:
            raise ValueError("a detection needs 3 numbers in center_m, 3 in size_m and 2 in velocity_mps")
        numbers += (message.score, *center, *size, message.yaw_rad, *velocity)
    rows = np.array(numbers, dtype=np.float32).reshape(len(messages), 10)
    return Detections(
        class_index=np.array(columns[0], dtype=np.int64),
        score=rows[:, 0],
        center_m=rows[:, 1:4],
        size_m=rows[:, 4:7],
        yaw_rad=rows[:, 7],
        velocity_mps=rows[:, 8:10],
        attribute_index=np.array(columns[1], dtype=np.int64),
        track_id=np.array(columns[2], dtype=np.int64),
    )


def _index(field: str, known: dict[str, int], name: str) -> int:
    if name not in known:
        raise ValueError(f"{field} {name[:40]!r} is none of {', '.join(known)}")
    return known[name]
