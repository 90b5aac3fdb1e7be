"""The synthetic drive, recorded as nuScenes and read again, is the same drive."""

from pathlib import Path

import numpy as np
import pytest

from perception.core.geometry import quaternion_to_rotation
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan
from perception.recorders.nuscenes import NuScenesRecorder
from perception.sources.nuscenes import NuScenesSource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import record, table

TABLES = [
    *("sample", "sample_data", "sample_annotation", "instance", "ego_pose", "calibrated_sensor", "sensor"),
    *("scene", "log", "map", "category", "attribute", "visibility"),
]


@pytest.fixture(scope="module")
def made() -> SyntheticSource:
    return SyntheticSource(seed=5, duration_s=2.1)


@pytest.fixture(scope="module")
def sent(made: SyntheticSource) -> list[AnyMessage]:
    return list(made.messages())


@pytest.fixture(scope="module")
def root(made: SyntheticSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(made, tmp_path_factory.mktemp("drive"))


@pytest.fixture(scope="module")
def read(root: Path) -> NuScenesSource:
    return NuScenesSource(root)


def test_sensor_messages_are_equal(sent: list[AnyMessage], read: NuScenesSource) -> None:
    def by_sensor(messages: list[AnyMessage]) -> list[AnyMessage]:
        chosen = [m for m in messages if isinstance(m, CameraFrame | LidarSweep | RadarScan)]
        return sorted(chosen, key=lambda m: (m.sensor, m.capture_ns))

    written, found = by_sensor(sent), by_sensor(list(read.messages()))
    assert len(written) == len(found)
    for one, other in zip(written, found, strict=True):
        assert (one.sensor, one.capture_ns, one.arrival_ns) == (other.sensor, other.capture_ns, other.arrival_ns)
        if isinstance(one, CameraFrame):
            assert isinstance(other, CameraFrame)
            assert one.data == other.data
        elif isinstance(one, LidarSweep):
            assert isinstance(other, LidarSweep)
            assert np.array_equal(one.points_m, other.points_m)
            assert np.allclose(one.intensity, other.intensity, atol=1e-6)
            assert one.ring is not None
            assert other.ring is not None
            assert np.array_equal(one.ring, other.ring)
            assert one.motion is other.motion
        elif isinstance(one, RadarScan):
            assert isinstance(other, RadarScan)
            assert np.array_equal(one.points_m, other.points_m)
            assert np.array_equal(one.rcs_dbsm, other.rcs_dbsm)
            assert np.array_equal(one.is_valid, other.is_valid)
            assert np.allclose(one.radial_mps, other.radial_mps, atol=1e-4)
            assert one.compensated_mps is not None
            assert other.compensated_mps is not None
            assert np.allclose(one.compensated_mps, other.compensated_mps, atol=1e-4)


def test_the_rig_is_equal(made: SyntheticSource, read: NuScenesSource) -> None:
    assert [s.name for s in read.rig.sensors] == [s.name for s in made.rig.sensors]
    assert read.rig.calibration_hash() == made.rig.calibration_hash()
    for one, other in zip(made.rig.sensors, read.rig.sensors, strict=True):
        assert other.frequency_hz == pytest.approx(one.frequency_hz, rel=1e-4)
        assert abs(other.offset_ns) < 1_000


def test_labels_are_equal_but_for_their_track_names(made: SyntheticSource, read: NuScenesSource) -> None:
    assert read.label_times_ns == made.label_times_ns
    assert len(read.label_times_ns) == 5
    names: dict[str, str] = {}
    moving = 0
    for time in made.label_times_ns:
        one, other = made.labels(time), read.labels(time)
        assert one is not None
        assert other is not None
        assert one.category == other.category
        assert np.array_equal(one.class_index, other.class_index)
        assert np.array_equal(one.attribute_index, other.attribute_index)
        assert np.array_equal(one.num_lidar_points, other.num_lidar_points)
        assert np.array_equal(one.num_radar_points, other.num_radar_points)
        assert np.allclose(one.center_m, other.center_m, atol=1e-6)
        assert np.allclose(one.size_m, other.size_m, atol=1e-9)
        rotations = quaternion_to_rotation(one.quaternion_wxyz), quaternion_to_rotation(other.quaternion_wxyz)
        assert np.allclose(*rotations, atol=1e-6)
        known = np.isfinite(other.velocity_mps).all(axis=1)
        assert np.mean(known) > 0.8
        assert np.allclose(one.velocity_mps[known], other.velocity_mps[known], atol=1e-6)
        moving += int(np.sum(np.linalg.norm(one.velocity_mps[known], axis=1) > 1.0))
        for track, token in zip(one.track_id, other.track_id, strict=True):
            assert names.setdefault(track, token) == token
    assert len(set(names.values())) == len(names)
    assert moving > 20


def test_poses_and_motion_are_those_of_the_ego(sent: list[AnyMessage], read: NuScenesSource) -> None:
    truth = {m.capture_ns: m for m in sent if isinstance(m, EgoState)}
    states = [m for m in read.messages() if isinstance(m, EgoState)]
    assert len({m.capture_ns for m in states}) == len(states) > 80
    for state in states:
        assert state.velocity_mps is not None
        assert state.yaw_rate_radps is not None
        assert np.allclose(state.velocity_mps, [8.0, 0.0], atol=0.02)
        assert state.yaw_rate_radps == pytest.approx(0.04, abs=1e-3)
        same = truth.get(state.capture_ns)
        if same is not None:
            assert same.world_SE3_ego is not None
            assert state.world_SE3_ego is not None
            assert np.allclose(state.world_SE3_ego, same.world_SE3_ego, atol=1e-9)


def test_a_recorded_drive_recorded_again_keeps_its_tracks(read: NuScenesSource, tmp_path: Path) -> None:
    recorder = NuScenesRecorder(tmp_path, read.rig, read.drive_id)
    for message in read.messages():
        recorder.write(message)
    for time in read.label_times_ns:
        labels = read.labels(time)
        assert labels is not None
        recorder.write(labels)
    recorder.close()
    again = NuScenesSource(tmp_path)
    assert again.drive_id == read.drive_id
    for time in read.label_times_ns:
        one, other = read.labels(time), again.labels(time)
        assert one is not None
        assert other is not None
        assert one.track_id == other.track_id
        assert np.allclose(one.center_m, other.center_m, atol=1e-6)


def test_every_link_of_every_table_resolves(root: Path) -> None:
    """What the devkit's reverse index needs: foreign keys, chains without a break, files that exist."""
    tables = {name: table(root, name) for name in TABLES}
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    for name, rows in tables.items():
        for row in rows:
            for field, value in row.items():
                if field.endswith("_token") and value:
                    target = {"first_sample_token": "sample", "last_sample_token": "sample"}.get(field)
                    target = target or ("sample_annotation" if "annotation_token" in field else field[: -len("_token")])
                    assert value in tokens[target], (name, field)
    for name in ("sample", "sample_data", "sample_annotation"):
        by_token = {row["token"]: row for row in tables[name]}
        for row in by_token.values():
            assert not row["next"] or by_token[row["next"]]["prev"] == row["token"]
            assert not row["prev"] or by_token[row["prev"]]["next"] == row["token"]
    for row in tables["sample_data"]:
        assert (root / row["filename"]).is_file()
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
    keys = [
        (row["sample_token"], row["filename"].split("/")[1]) for row in tables["sample_data"] if row["is_key_frame"]
    ]
    assert len(keys) == len(set(keys)) == 5 * 12
