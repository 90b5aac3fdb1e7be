"""The aiMotive reader on a small session that the test writes: frames, units, labels and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.core.cameras import Projection
from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import transform_points
from perception.core.messages import AnyMessage, EgoState, LidarSweep, RadarScan, SweepMotion, Unreadable
from perception.sources.aimotive import AiMotiveSource
from tests.unit.small_aimotive import (
    LIDAR_MOUNT,
    POINTS_BODY_M,
    RADAR_MOUNT,
    read_calibration,
    stamp,
    write_boxes,
    write_calibration,
    write_laz,
    write_session,
)
from tests.unit.small_pandaset import jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_session(tmp_path / "night")


def _of(folder: Path, sensor: str) -> list[AnyMessage]:
    return [message for message in AiMotiveSource(folder).messages() if message.sensor == sensor]


def test_sensors_come_from_the_calibration(folder: Path) -> None:
    source = AiMotiveSource(folder)
    assert source.drive_id == "aimotive/night"
    assert [sensor.name for sensor in source.rig.sensors] == ["F_CAM", "F_FISH", "F_LIDAR", "B_RADAR"]
    plain, fisheye = source.rig["F_CAM"].camera, source.rig["F_FISH"].camera
    assert plain is not None
    assert fisheye is not None
    assert (plain.projection, fisheye.projection) == (Projection.BROWN, Projection.MEI)
    assert fisheye.xi == 1.02
    assert plain.intrinsic.tolist() == [[40, 0, 31.5], [0, 41, 23.5], [0, 0, 1]]
    assert source.rig["F_CAM"].frequency_hz == pytest.approx(15, abs=0.01)
    assert np.allclose(source.rig["B_RADAR"].ego_SE3_sensor, RADAR_MOUNT)


def test_sweeps_are_raw_in_the_lidar_frame_and_arrive_after_the_last_point(folder: Path) -> None:
    sweeps = _of(folder, "F_LIDAR")
    assert [sweep.capture_ns for sweep in sweeps] == [stamp(frame) for frame in (7, 8, 9)]
    sweep = sweeps[0]
    assert isinstance(sweep, LidarSweep)
    assert sweep.motion is SweepMotion.RAW
    assert np.allclose(transform_points(LIDAR_MOUNT, sweep.points_m), POINTS_BODY_M, atol=1e-3)
    assert sweep.point_offset_ns is not None
    assert sweep.point_offset_ns.tolist() == [-68_000_000, -18_000_000, 32_000_000]
    assert sweep.arrival_ns == sweep.capture_ns + 42_000_000
    assert np.allclose(sweep.intensity, 0.2)


def test_radar_is_cartesian_with_elevation_downwards_and_rcs_in_decibel(folder: Path) -> None:
    scan = _of(folder, "B_RADAR")[0]
    assert isinstance(scan, RadarScan)
    flat = 50 * np.cos(0.05)
    assert np.allclose(scan.points_m, [[flat * np.cos(0.1), flat * np.sin(0.1), 50 * np.sin(0.05)]], atol=1e-4)
    assert scan.rcs_dbsm == pytest.approx([10.0])
    assert scan.radial_mps == pytest.approx([30.0])
    assert scan.compensated_mps is None


def test_labels_are_in_body_axes_without_velocity_over_ground(folder: Path) -> None:
    source = AiMotiveSource(folder)
    assert source.label_times_ns == tuple(stamp(frame) for frame in (7, 8, 9))
    labels = source.labels(stamp(8))
    assert labels is not None
    assert labels.category == ("VAN",)
    assert labels.class_index.tolist() == [0]
    assert labels.center_m.tolist() == [[10.0, 1.0, 0.5]]
    assert labels.size_m.tolist() == [[5.0, 2.0, 1.8]]
    assert labels.track_id == ("3",)
    assert np.all(np.isnan(labels.velocity_mps))
    assert any("relative to the ego" in note for note in source.notes)
    assert not any(isinstance(message, EgoState) for message in source.messages())


def test_messages_come_by_arrival(folder: Path) -> None:
    messages = list(AiMotiveSource(folder).messages())
    assert len(messages) == 12
    assert [m.arrival_ns for m in messages] == sorted(m.arrival_ns for m in messages)


def test_a_frame_without_boxes_is_timed_between_its_neighbours(folder: Path) -> None:
    (folder / "dynamic/box/3d_body/frame_0000008.json").write_text("{")
    source = AiMotiveSource(folder)
    assert [m.capture_ns for m in source.messages() if m.sensor == "F_LIDAR"] == [stamp(7), stamp(8), stamp(9)]
    assert source.labels(stamp(8)) is None
    assert any(note.startswith("1 frames without readable boxes") for note in source.notes)


def test_broken_payloads_are_unreadable_and_the_rest_goes_on(folder: Path) -> None:
    laz = folder / "dynamic/raw-revolutions/frame_0000007.laz"
    laz.write_bytes(laz.read_bytes()[:-60])
    (folder / "dynamic/raw-revolutions/frame_0000008.laz").write_bytes(b"")
    write_laz(folder / "dynamic/raw-revolutions/frame_0000009.laz", np.zeros((0, 3)), stamp(9))
    (folder / "sensor/radar/B_RADAR/B_RADAR_0000007.json").write_text('{"targets": [{"azimuth": "left"}]}')
    (folder / "sensor/radar/B_RADAR/B_RADAR_0000008.json").write_text('{"targets": []}')
    (folder / "sensor/camera/F_CAM/F_CAM_0000008.jpg").write_bytes(jpeg(1)[:200])
    messages = list(AiMotiveSource(folder).messages())
    bad = [(m.sensor, m.capture_ns) for m in messages if isinstance(m, Unreadable)]
    assert sorted(bad) == [
        ("B_RADAR", stamp(7)),
        ("F_CAM", stamp(8)),
        ("F_LIDAR", stamp(7)),
        ("F_LIDAR", stamp(8)),
        ("F_LIDAR", stamp(9)),
    ]
    assert len(messages) == 12


@pytest.mark.parametrize(
    "target", [{"range": -1.0}, {"azimuth": 7.0}, {"rcs": 0.0}], ids=["negative range", "angle", "no rcs"]
)
def test_radar_targets_are_checked(folder: Path, target: dict[str, float]) -> None:
    path = folder / "sensor/radar/B_RADAR/B_RADAR_0000007.json"
    scan = json.loads(path.read_text())
    scan["targets"][0].update(target)
    path.write_text(json.dumps(scan))
    message = _of(folder, "B_RADAR")[0]
    if "rcs" in target:
        assert isinstance(message, RadarScan)
        assert np.isfinite(message.rcs_dbsm).all()
    else:
        assert isinstance(message, Unreadable)


@pytest.mark.parametrize(
    ("sensor", "change", "reason"),
    [
        ("F_CAM", {"model": "fisheye7"}, "opencv_pinhole, mei"),
        ("F_CAM", {"transform": "crop"}, "transformed by 'crop'"),
        ("F_CAM", {"focal_length_px": [0, 1]}, "focal"),
        ("F_CAM", {"distortion_coeffs": [1]}, "distortion"),
        ("F_CAM", {"image_resolution_px": "big"}, "image_resolution_px"),
        ("B_RADAR", {"RT_body_from_sensor": [[1, 2], [3, 4]]}, "rigid"),
        ("F_LIDAR", {"RT_sensor_from_body": np.eye(4).tolist()}, "not the inverse"),
    ],
)
def test_a_broken_calibration_is_named(folder: Path, sensor: str, change: dict[str, Any], reason: str) -> None:
    calibration = read_calibration(folder)
    calibration[sensor].update(change)
    write_calibration(folder, calibration)
    with pytest.raises(DriveError, match=reason) as caught:
        AiMotiveSource(folder)
    assert "calibration.json" in str(caught.value)
    assert sensor in str(caught.value)


def test_times_must_be_there_and_rise(folder: Path) -> None:
    write_boxes(folder, 8, str(stamp(5)))
    with pytest.raises(DriveError, match="does not rise from frame 7 to 8"):
        AiMotiveSource(folder)
    for frame in (7, 8, 9):
        write_boxes(folder, frame, "noon")
    with pytest.raises(DriveError, match="'noon' is not a number"):
        AiMotiveSource(folder)


def test_broken_boxes_are_an_error_of_their_frame(folder: Path) -> None:
    write_boxes(folder, 7, str(stamp(7)), **{"BoundingBox3D Extent X": -1.0})
    write_boxes(folder, 8, str(stamp(8)), **{"BoundingBox3D Origin X": "far"})
    source = AiMotiveSource(folder)
    with pytest.raises(PayloadError, match="positive extent"):
        source.labels(stamp(7))
    with pytest.raises(PayloadError, match="Origin X"):
        source.labels(stamp(8))
    assert source.labels(stamp(9)) is not None


def test_a_missing_sensor_folder_leaves_the_sensor_out(folder: Path) -> None:
    for path in sorted((folder / "sensor/radar").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert "B_RADAR" not in AiMotiveSource(folder).rig
