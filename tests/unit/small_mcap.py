"""Records drives as MCAP, and compares what comes back with what went in, bit by bit."""

import contextlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.ports import Source
from perception.recorders.mcap import McapRecorder, ResultFormat
from perception.recorders.mcap_files import Rotation


def record_drive(
    source: Source, path: Path, *, rotation: Rotation | None = None, results: ResultFormat | None = None
) -> tuple[Path, ...]:
    """The files made of all messages and labels of a source."""
    recorder = McapRecorder(path, source.rig, source.drive_id, notes=source.notes, rotation=rotation, results=results)
    unlabelled = set(source.label_times_ns)
    with contextlib.closing(recorder):
        for message in source.messages():
            recorder.write(message)
            if message.capture_ns in unlabelled and message.sensor in source.rig:
                unlabelled.discard(message.capture_ns)
                labels = source.labels(message.capture_ns)
                assert labels is not None
                recorder.write(labels)
    return recorder.files


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Of equal types, numbers and bytes, all the way down; nan is equal to nan."""
    assert type(one) is type(other), where
    if is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, tuple):
        assert len(one) == len(other), where
        for k, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}[{k}]")
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        if one.dtype.kind == "f":
            is_number = ~np.isnan(one)
            assert np.array_equal(is_number, ~np.isnan(other)), where
            assert one[is_number].tobytes() == other[is_number].tobytes(), where
        else:
            assert np.array_equal(one, other), where
    else:
        assert one == other, where


def assert_same_drives(one: Source, other: Source) -> None:
    """Equal ids, rigs, messages and labels."""
    assert one.drive_id == other.drive_id
    assert_same(one.rig, other.rig)
    for first, second in zip(one.messages(), other.messages(), strict=True):
        assert_same(first, second, first.sensor)
    assert one.label_times_ns == other.label_times_ns
    for time_ns in one.label_times_ns:
        assert_same(one.labels(time_ns), other.labels(time_ns))
