"""What the nuScenes recorder makes of labels: point counts, visibility, categories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.labels import UNKNOWN_COUNT
from perception.core.messages import AnyMessage, CameraFrame, EgoState
from perception.core.rig import SensorRig
from perception.recorders.nuscenes import NuScenesRecorder
from perception.sources.nuscenes import NuScenesSource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import small_rig, table


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(duration_s=1.1, rig=small_rig())


@pytest.fixture(scope="module")
def drive(source: SyntheticSource) -> list[AnyMessage]:
    return list(source.messages())


def _all(count: int) -> Callable[[int], NDArray[np.int64]]:
    return lambda k: np.full(k, count, dtype=np.int64)


def _record_labelled(
    source: SyntheticSource, drive: list[AnyMessage], folder: Path, **changes: Callable[[int], Any]
) -> None:
    """Record the drive with fields of its labels changed to what `changes` makes of their number."""
    recorder = NuScenesRecorder(folder, source.rig, source.drive_id)
    for message in drive:
        recorder.write(message)
    for time in source.label_times_ns:
        labels = source.labels(time)
        assert labels is not None
        fields = {name: make(len(labels)) for name, make in changes.items()}
        recorder.write(replace(labels, **fields))
    recorder.close()


def test_counts_that_labels_leave_open_are_those_of_the_files(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    _record_labelled(
        source, drive, tmp_path, num_lidar_points=_all(UNKNOWN_COUNT), num_radar_points=_all(UNKNOWN_COUNT)
    )
    read = NuScenesSource(tmp_path)
    assert len(source.label_times_ns) == 3
    for time in source.label_times_ns:
        truth, found = source.labels(time), read.labels(time)
        assert truth is not None
        assert found is not None
        assert np.array_equal(found.num_lidar_points, truth.num_lidar_points)
        assert np.array_equal(found.num_radar_points, truth.num_radar_points)


def test_lidar_counts_that_the_files_do_not_bear_out_are_counted_anew(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    _record_labelled(source, drive, tmp_path, num_lidar_points=_all(7), num_radar_points=_all(7))
    for time in source.label_times_ns:
        truth, found = source.labels(time), NuScenesSource(tmp_path).labels(time)
        assert truth is not None
        assert found is not None
        assert np.array_equal(found.num_lidar_points, truth.num_lidar_points)
        assert np.all(found.num_radar_points == 7)


def test_lidar_counts_stay_where_no_lidar_was_recorded(source: SyntheticSource, tmp_path: Path) -> None:
    rig = SensorRig(sensors=(small_rig()["CAM_FRONT"],))
    recorder = NuScenesRecorder(tmp_path, rig, "drive")
    time = source.label_times_ns[0]
    labels = source.labels(time)
    assert labels is not None
    recorder.write(EgoState(capture_ns=time, arrival_ns=time, world_SE3_ego=np.eye(4)))
    recorder.write(CameraFrame(sensor="CAM_FRONT", capture_ns=time, arrival_ns=time, data=b"\xff\xd8\xff\xd9"))
    recorder.write(labels)
    recorder.close()
    assert [row["num_lidar_pts"] for row in table(tmp_path, "sample_annotation")] == labels.num_lidar_points.tolist()


def test_visibility_levels_are_those_of_the_shares(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    shares = np.array([0.0, 0.39, 0.4, 0.59, 0.6, 0.79, 0.8, 1.0])
    _record_labelled(source, drive, tmp_path / "known", visible_share=lambda k: np.resize(shares, k))
    tokens = [row["visibility_token"] for row in table(tmp_path / "known", "sample_annotation")]
    per_frame = len(tokens) // len(source.label_times_ns)
    assert tokens[: min(per_frame, 8)] == ["1", "1", "2", "2", "3", "3", "4", "4"][:per_frame]
    levels = {row["token"]: row["level"] for row in table(tmp_path / "known", "visibility")}
    assert levels == {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
    _record_labelled(source, drive, tmp_path / "unknown")
    assert {row["visibility_token"] for row in table(tmp_path / "unknown", "sample_annotation")} == {"4"}


def test_labels_of_what_nuscenes_has_no_category_for_are_left_out(
    source: SyntheticSource, drive: list[AnyMessage], tmp_path: Path
) -> None:
    named = ("static_object.signal", "Misc", "animal", "Tram", "vehicle.car")
    classes = np.array([-1, -1, -1, 2, 0], dtype=np.int64)
    _record_labelled(
        source,
        drive,
        tmp_path,
        category=lambda k: tuple(named[i % 5] for i in range(k)),
        class_index=lambda k: np.resize(classes, k),
    )
    names = {row["token"]: row["name"] for row in table(tmp_path, "category")}
    instances = {row["token"]: names[row["category_token"]] for row in table(tmp_path, "instance")}
    kept = {instances[row["instance_token"]] for row in table(tmp_path, "sample_annotation")}
    assert kept == {"animal", "vehicle.bus.rigid", "vehicle.car"}
    assert not {"static_object.signal", "Misc", "Tram"} & set(names.values())
    read = NuScenesSource(tmp_path).labels(source.label_times_ns[0])
    assert read is not None
    assert "static_object.signal" not in read.category
