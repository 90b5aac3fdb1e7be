"""Detections to and from protobuf bytes, all rows at once: message by message it would take a millisecond each way.

What is written is what any protobuf library writes (https://protobuf.dev/programming-guides/encoding), fields in the
order of their numbers. What is read may be anything: detections with fields left out are read one by one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.results import NO_TRACK, Detections
from perception.core.taxonomy import ATTRIBUTE_INDEX, ATTRIBUTES, CLASS_INDEX, CLASSES, NO_ATTRIBUTE
from perception.queues import perception_result_pb2 as pb
from perception.queues.wire_columns import framed, varint

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
VALUES = {"score": 1, "center_m": 3, "size_m": 3, "yaw_rad": 1, "velocity_mps": 2}
"""How many numbers a detection has of each."""
TAGGED = np.array([(0x15, 0, 0x0C1A, 0, 0x0C22, 0, 0x2D, 0, 0x0832, 0)], dtype=NUMBERS)
"""One row with its tags and zeros."""
ROW = np.dtype((np.void, NUMBERS.itemsize))
FRAME_TAG, LABEL_TAG, ATTRIBUTE_TAG = 0x32, 0x0A, 0x3A
LABELS = [framed(LABEL_TAG, name.encode()) for name in CLASSES]
LABEL_SIZES = np.array([len(label) for label in LABELS])
CLASS_OF = {name.encode(): index for name, index in CLASS_INDEX.items()}
ATTRIBUTE_SIZES = np.array([len(framed(ATTRIBUTE_TAG, name.encode())) for name in ATTRIBUTES])
ATTRIBUTE_OF = {name.encode(): index for name, index in ATTRIBUTE_INDEX.items()}
MAX_TRACK_BYTES = 11
"""Of a track with its tag; every attribute takes more."""
TRACK_STEPS = np.array([1 << 7 * digits for digits in range(1, 9)])
"""Tracks from which on one byte more is needed than for those before."""
REMEMBERED_COUNTS = 256
REMEMBERED = 4096
"""Tracks live for many results, so that most of what stands around the numbers was there before."""


def pack_detections(detections: Detections) -> bytes:
    """The field `detections` of a serialized `PerceptionResult`: every row with its tag and length.

    Indices must lie within their lists.
    """
    if not len(detections):
        return b""
    rows = np.repeat(TAGGED, len(detections))
    for name in VALUES:
        rows[name] = getattr(detections, name)
    names = (detections.class_index, detections.attribute_index, detections.track_id)
    parts: list[Any] = [None] * (3 * len(rows))
    parts[0::3], parts[2::3] = zip(*map(_around, *(column.tolist() for column in names)), strict=True)
    parts[1::3] = rows.view(ROW).tolist()
    return b"".join(parts)


def read_columns(columns: Any, messages: Sequence[bytes]) -> Detections | None:
    """The detections in the `COLUMNS` and `FRAMES` of a result; takes the texts out of `columns`.

    None where one is not as `pack_detections` writes it: a number left out because it is zero, a field that is not
    known here, a label or attribute that is none. Numbers that one has too many and another too few may count for the
    other where both are as long as they should be; no protobuf library writes such.
    """
    count = len(messages)
    if not count:
        return Detections.empty()
    try:
        classes = _indices(CLASS_OF, columns.label)
        attributes = _indices(ATTRIBUTE_OF, columns.attribute)
    except KeyError:
        return None
    if len(classes) != count or any(len(getattr(columns, name)) != width * count for name, width in VALUES.items()):
        return None
    tracks = np.fromiter(columns.track_id, np.int64, len(columns.track_id))
    # Which of them have an attribute and a track is told by what these take of their bytes.
    left = np.fromiter(map(len, messages), np.int64, count) - LABEL_SIZES[classes] - NUMBERS.itemsize
    has_attribute = left > MAX_TRACK_BYTES
    if np.count_nonzero(has_attribute) != len(attributes):
        return None
    left[has_attribute] -= ATTRIBUTE_SIZES[attributes]
    has_track = left > 0
    if np.count_nonzero(has_track) != len(tracks):
        return None
    left[has_track] -= np.where(tracks < 0, MAX_TRACK_BYTES, np.searchsorted(TRACK_STEPS, tracks, side="right") + 2)
    if left.any():
        return None
    return Detections(
        class_index=classes,
        attribute_index=_spread(attributes, has_attribute, NO_ATTRIBUTE),
        track_id=_spread(tracks, has_track, NO_TRACK),
        **_numbers(columns, count),
    )


def _indices(known: dict[bytes, int], texts: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(known.__getitem__, texts), np.int64, len(texts))


def _spread(values: NDArray[np.int64], where: NDArray[np.bool_], nothing: int) -> NDArray[np.int64]:
    """A column (N,) with `values` where it has one."""
    column = np.full(len(where), nothing, dtype=np.int64)
    column[where] = values
    return column


def _numbers(columns: Any, count: int) -> dict[str, NDArray[np.float32]]:
    """The columns in `VALUES`, all of them of `count` rows."""
    # Written again without the texts, each is one block of bytes: number by number it would take ten times as long.
    for name in ("label", "attribute", "track_id"):
        columns.ClearField(name)
    blocks = np.frombuffer(columns.SerializeToString(), _blocks(count), 1)[0]
    return {name: blocks[name].astype(np.float32) for name in VALUES}


@lru_cache(REMEMBERED_COUNTS)
def _blocks(count: int) -> np.dtype[np.void]:
    """Where the numbers of so many rows are when written as columns, each block behind its tag and length."""
    offsets, place = [], 0
    for width in VALUES.values():
        size = 4 * width * count
        place += 1 + len(varint(size))
        offsets.append(place)
        place += size
    formats = [("<f4", (count, width) if width > 1 else (count,)) for width in VALUES.values()]
    return np.dtype({"names": list(VALUES), "formats": formats, "offsets": offsets, "itemsize": place})


@lru_cache(REMEMBERED)
def _around(label: int, attribute: int, track: int) -> tuple[bytes, bytes]:
    """What stands before the numbers of a detection, its frame and label, and what behind them."""
    end = pb.Detection(
        attribute=ATTRIBUTES[attribute] if attribute != NO_ATTRIBUTE else None,
        track_id=track if track != NO_TRACK else None,
    ).SerializeToString()
    size = len(LABELS[label]) + NUMBERS.itemsize + len(end)
    return bytes((FRAME_TAG,)) + varint(size) + LABELS[label], end


def read_messages(messages: Sequence[pb.Detection]) -> Detections:
    """Detections one by one. Raises ValueError where one has a label or attribute that is none, or too few numbers."""
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
