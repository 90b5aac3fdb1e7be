"""What is measured of drives: counts on objects, what is left out, pooling, and the files they are kept in."""

from pathlib import Path

import click
import numpy as np
import pytest

from perception.cli.main import cli
from perception.core.errors import DriveError, UsageError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, EgoState, LidarSweep, RadarScan, SweepMotion
from perception.core.rig import Modality, Sensor, SensorRig
from perception.evaluation.drive_measuring import measure_drives
from perception.evaluation.drive_statistics import (
    DriveStatistics,
    Histogram,
    ObjectSamples,
    by_distance,
    read_statistics,
    summarize_statistics,
    write_statistics,
)
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import small_rig

TIME_NS = 1_000_000_000


def _sensor(name: str, modality: Modality) -> Sensor:
    return Sensor(name=name, modality=modality, ego_SE3_sensor=np.eye(4), frequency_hz=10.0)


def _labels(centers: list[tuple[float, float, float]], velocity: tuple[float, float] = (0.0, 0.0)) -> Labels:
    """Cars of 4 x 2 x 2 m; the last one is of no class."""
    k = len(centers)
    return Labels(
        reference_ns=TIME_NS,
        category=tuple("car" for _ in centers),
        class_index=np.array([0] * (k - 1) + [-1], dtype=np.int64),
        center_m=np.array(centers),
        size_m=np.tile([4.0, 2.0, 2.0], (k, 1)),
        quaternion_wxyz=np.tile([1.0, 0.0, 0.0, 0.0], (k, 1)),
        velocity_mps=np.tile(velocity, (k, 1)),
        attribute_index=np.full(k, -1, dtype=np.int64),
        track_id=tuple(map(str, range(k))),
        num_lidar_points=np.full(k, -1, dtype=np.int64),
        num_radar_points=np.full(k, -1, dtype=np.int64),
    )


def _sweep(points: list[tuple[float, float, float]], intensity: list[float]) -> LidarSweep:
    return LidarSweep(
        sensor="lidar",
        capture_ns=TIME_NS,
        arrival_ns=TIME_NS,
        points_m=np.array(points, dtype=np.float32),
        intensity=np.array(intensity, dtype=np.float32),
        motion=SweepMotion.COMPENSATED,
    )


def _scan(points: list[tuple[float, float, float]], time_ns: int, valid: list[bool]) -> RadarScan:
    n = len(points)
    return RadarScan(
        sensor="radar",
        capture_ns=time_ns,
        arrival_ns=time_ns,
        points_m=np.array(points, dtype=np.float32),
        rcs_dbsm=np.full(n, 6.0, dtype=np.float32),
        radial_mps=np.zeros(n, dtype=np.float32),
        compensated_mps=np.arange(n, dtype=np.float32),
        is_valid=np.array(valid),
    )


def _drive(messages: list[AnyMessage], labels: Labels) -> MemorySource:
    rig = SensorRig(sensors=(_sensor("lidar", Modality.LIDAR), _sensor("radar", Modality.RADAR)))
    return MemorySource(rig, messages, {TIME_NS: labels})


def test_points_on_objects_are_counted_and_those_on_the_vehicle_left_out() -> None:
    sweep = _sweep(
        [(1.0, 0.0, 0.0), (20.0, 0.0, 0.0), (21.9, 0.9, 0.9), (22.1, 0.0, 0.0), (0.0, 50.0, 4.0)],
        [0.0, 0.2, 0.4, 1.0, 0.2],
    )
    found = measure_drives([_drive([sweep], _labels([(20.0, 0.0, 0.0), (0.0, 70.0, 0.0), (0.0, 50.0, 4.0)]))], "a")
    lidar = found.lidars["lidar"]
    assert lidar.points_per_sweep == [4]
    assert sum(lidar.range_m.counts) == sum(lidar.height_m.counts) == sum(lidar.intensity.counts) == 4
    assert lidar.intensity.counts[-1] == 1
    cars = found.objects["car"]
    assert list(found.objects) == ["car"]
    assert cars.lidar_points == [2, 0]
    assert cars.points_on_seen == [2, None]
    assert cars.intensity == [pytest.approx(0.3), None]
    assert cars.distance_m == [20.0, 70.0]
    assert found.frames == 1


def test_radar_returns_count_where_a_radar_faces_the_object_at_its_own_time() -> None:
    late_ns = TIME_NS + 100_000_000
    # Cars move at 10 m/s: a tenth of a second later they are a metre further on. The last return is not valid.
    scan = _scan([(33.2, 0.0, 0.0), (28.4, 0.0, 0.0), (30.0, 0.0, 0.0)], late_ns, [True, True, False])
    ego = EgoState(capture_ns=late_ns, arrival_ns=late_ns, world_SE3_ego=np.eye(4))
    labels = _labels([(30.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 50.0)], velocity=(10.0, 0.0))
    found = measure_drives([_drive([_sweep([(50.0, 0.0, 0.0)], [0.1]), scan, ego], labels)], "a")
    assert found.objects["car"].radar_returns == [1, None]
    assert found.objects["car"].speed_mps == [10.0, 10.0]
    radar = found.radars["radar"]
    assert radar.returns_per_scan == [2]
    assert (radar.compensated, radar.moving) == (2, 1)


def test_counts_of_a_moving_ego_are_those_of_its_labels() -> None:
    source = SyntheticSource(duration_s=1.1, rig=small_rig())
    found = measure_drives([source], "synthetic")
    truth = [source.labels(time) for time in source.label_times_ns]
    counts = [labels.num_lidar_points.sum() for labels in truth if labels is not None]
    assert found.frames == len(counts) == 3
    assert sum(sum(samples.lidar_points) for samples in found.objects.values()) == pytest.approx(sum(counts), rel=0.02)
    assert sum(counts) > 100


def test_drives_are_pooled() -> None:
    one = measure_drives([SyntheticSource(duration_s=0.6, rig=small_rig())], "one")
    two = measure_drives([SyntheticSource(duration_s=0.6, rig=small_rig(), seed=seed) for seed in (0, 1)], "two")
    assert two.drives == ["synthetic/0", "synthetic/1"]
    assert two.frames == 2 * one.frames
    assert len(two.lidars["LIDAR_TOP"].points_per_sweep) == 2 * len(one.lidars["LIDAR_TOP"].points_per_sweep)
    assert two.objects["car"].distance_m[: len(one.objects["car"])] == one.objects["car"].distance_m


def test_quantiles_and_shares_of_a_histogram() -> None:
    histogram = Histogram(edges=(0.0, 1.0, 2.0, 4.0))
    histogram.add(np.array([0.5, 1.5, 1.6, 3.0, 9.0]))
    assert histogram.counts == [1, 2, 1]
    assert histogram.shares.tolist() == [0.25, 0.5, 0.25]
    assert histogram.quantile(0.5) == pytest.approx(1.5)
    assert np.isnan(Histogram(edges=(0.0, 1.0)).quantile(0.5))


def test_values_by_distance_leave_out_what_is_not_known() -> None:
    samples = ObjectSamples(distance_m=[5.0, 6.0, 7.0, 15.0, 200.0])
    median, mean, count = by_distance(samples, [1.0, None, 4.0, None, 7.0])
    assert count.tolist()[:2] == [2, 0]
    assert (median[0], mean[0]) == (2.5, 2.5)
    assert np.isnan(median[1])
    assert count.sum() == 2


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    made = measure_drives([SyntheticSource(duration_s=0.6, rig=small_rig())], "synthetic")
    write_statistics(made, tmp_path / "made.json")
    assert read_statistics(tmp_path / "made.json") == made
    (tmp_path / "other.json").write_text('{"samples": {"name": 3}}')
    with pytest.raises(DriveError, match=r"other\.json: no statistics of drives"):
        read_statistics(tmp_path / "other.json")
    with pytest.raises(DriveError, match="cannot be written"):
        write_statistics(made, tmp_path / "no" / "folder.json")


def test_a_drive_without_objects_or_radar_has_a_summary() -> None:
    summary = summarize_statistics(DriveStatistics(name="nothing"))
    assert summary["objects"] == {}
    assert summary["frames"] == 0


def test_inspect_writes_statistics_and_draws_them_beside_others(tmp_path: Path) -> None:
    written, picture = tmp_path / "first.json", tmp_path / "both.png"
    cli.main(["inspect", "synthetic:duration=0.6", "--statistics", str(written)], standalone_mode=False)
    assert read_statistics(written).name == "first"
    paths = [str(written), "synthetic:duration=0.6,seed=1"]
    cli.main(["inspect", *paths, "--statistics-plot", str(picture)], standalone_mode=False)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    with pytest.raises(UsageError, match="give one drive, or --statistics"):
        cli.main(["inspect", *paths], standalone_mode=False)
    with pytest.raises(click.UsageError):
        cli.main(["inspect"], standalone_mode=False)
