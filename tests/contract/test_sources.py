"""What every source must do, tried on each of them."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from perception.core.messages import EGO_SENSOR, ROUTE_SENSOR, CameraFrame, LidarSweep, RadarScan
from perception.core.ports import Source
from perception.core.rig import Modality
from perception.recorders.mcap_files import Rotation
from perception.recorders.nuscenes import NuScenesRecorder
from perception.sources.memory import MemorySource
from perception.sources.open import open_drive
from perception.sources.synthetic import SyntheticSource
from tests.unit.plain_folder_drive import open_plain_folder, write_plain_folder
from tests.unit.small_av2 import write_log
from tests.unit.small_bag import logged_drive, write_bag
from tests.unit.small_kitti_raw import write_drive
from tests.unit.small_mcap import record_drive

RECORDED = ("aimotive-night", "pandaset-002", "nuscenes-mini-1kf", "kitti-object", "av2-7fab2350")
BAGS = ("ros1", "sqlite3", "mcap")
UNLABELLED = (*BAGS, "plain")
KIND = {CameraFrame: Modality.CAMERA, LidarSweep: Modality.LIDAR, RadarScan: Modality.RADAR}


def _synthetic(_: Path) -> Source:
    return SyntheticSource(seed=3, duration_s=1.0)


def _memory(_: Path) -> Source:
    made = SyntheticSource(seed=3, duration_s=1.0)
    labels = {time: found for time in made.label_times_ns if (found := made.labels(time)) is not None}
    return MemorySource(made.rig, list(made.messages()), labels)


def _nuscenes(folder: Path) -> Source:
    made = SyntheticSource(seed=3, duration_s=1.0)
    with contextlib.closing(NuScenesRecorder(folder / "root", made.rig, made.drive_id)) as recorder:
        for message in made.messages():
            recorder.write(message)
            labels = made.labels(message.capture_ns) if message.capture_ns in made.label_times_ns else None
            if labels is not None and message.sensor == "LIDAR_TOP":
                recorder.write(labels)
    return open_drive(str(folder / "root"))


def _bag(folder: Path, kind: str) -> Source:
    made = SyntheticSource(seed=3, duration_s=0.5)
    return open_drive(str(write_bag(folder, kind, logged_drive(kind, made.rig, made.messages()))))


def _av2(folder: Path) -> Source:
    return open_drive(str(write_log(folder)))


def _kitti_raw(folder: Path) -> Source:
    return open_drive(str(write_drive(folder)))


def _plain(folder: Path) -> Source:
    """The worked example of the docs."""
    return open_plain_folder(write_plain_folder(folder / "drive"))


def _mcap(folder: Path) -> Source:
    path = folder / "drive.mcap"
    record_drive(SyntheticSource(seed=3, duration_s=1.0), path)
    return open_drive(str(path))


def _rotated(folder: Path) -> Source:
    files = record_drive(
        SyntheticSource(seed=3, duration_s=1.0), folder / "drive.mcap", rotation=Rotation(max_ns=300_000_000)
    )
    assert len(files) == 4
    return open_drive(str(folder))


MAKERS: dict[str, Callable[[Path], Source]] = {
    "synthetic": _synthetic,
    "memory": _memory,
    "nuscenes": _nuscenes,
    "av2": _av2,
    "kitti_raw": _kitti_raw,
    "recorded": _mcap,
    "recorded in parts": _rotated,
    "plain": _plain,
    **{kind: partial(_bag, kind=kind) for kind in BAGS},
}


@pytest.fixture(params=[*MAKERS, *RECORDED])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    if request.param in MAKERS:
        made = MAKERS[request.param](tmp_path)
    else:
        made = open_drive(str(request.getfixturevalue("drive_data") / request.param))
    with contextlib.closing(made):
        yield made


def test_fits_the_port(source: Source) -> None:
    assert isinstance(source, Source)
    assert source.drive_id
    assert all(isinstance(note, str) for note in source.notes)


def test_messages_come_in_arrival_order_from_the_rig(source: Source) -> None:
    messages = list(source.messages())
    assert messages
    assert all(first.arrival_ns <= second.arrival_ns for first, second in pairwise(messages))
    for message in messages:
        assert message.arrival_ns >= message.capture_ns
        if isinstance(message, CameraFrame | LidarSweep | RadarScan):
            assert source.rig[message.sensor].modality is KIND[type(message)]
        else:
            assert message.sensor in {EGO_SENSOR, ROUTE_SENSOR} or message.sensor in source.rig


def test_every_sensor_of_the_rig_is_heard(source: Source) -> None:
    heard = {message.sensor for message in source.messages()}
    assert {sensor.name for sensor in source.rig.sensors} <= heard


def test_span_is_first_and_last_arrival(source: Source) -> None:
    arrivals = [message.arrival_ns for message in source.messages()]
    assert source.span_ns is not None
    assert source.span_ns[0] <= arrivals[0]
    assert arrivals[-1] <= source.span_ns[1]
    assert abs(source.span_ns[0] - arrivals[0]) < 1e9
    assert abs(source.span_ns[1] - arrivals[-1]) < 1e9


def test_a_second_lap_is_the_same(source: Source) -> None:
    first, second = list(source.messages()), list(source.messages())
    assert [(m.sensor, m.capture_ns, m.arrival_ns) for m in first] == [
        (m.sensor, m.capture_ns, m.arrival_ns) for m in second
    ]
    for one, other in zip(first, second, strict=True):
        if isinstance(one, CameraFrame) and isinstance(other, CameraFrame):
            assert one.data == other.data
        if isinstance(one, LidarSweep) and isinstance(other, LidarSweep):
            assert np.array_equal(one.points_m, other.points_m)


@pytest.mark.parametrize("source", [name for name in (*MAKERS, *RECORDED) if name not in UNLABELLED], indirect=True)
def test_labels_are_at_their_times(source: Source) -> None:
    captures = {message.capture_ns for message in source.messages()}
    assert source.label_times_ns
    assert list(source.label_times_ns) == sorted(set(source.label_times_ns))
    for time in source.label_times_ns:
        labels = source.labels(time)
        assert labels is not None
        assert labels.reference_ns == time
        assert time in captures
        assert np.all(labels.size_m > 0)
        assert np.all(np.isfinite(labels.center_m))
    assert source.labels(source.label_times_ns[-1] + 12_345) is None
