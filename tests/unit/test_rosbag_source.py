"""Bags of each kind, written by rosbags from a computed drive, give back what was logged."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.errors import DriveError, UsageError
from perception.core.geometry import invert, quaternion_to_rotation, se3, se3_from_yaw
from perception.core.messages import (
    AnyMessage,
    CameraFrame,
    EgoState,
    LidarSweep,
    RadarScan,
    RouteCommand,
    SweepMotion,
    Unreadable,
)
from perception.core.rig import Modality
from perception.sources.open import open_drive
from perception.sources.rosbag import RosbagSource
from perception.sources.rosbag_topics import read_topics
from perception.sources.rosbag_types import COMPRESSED_IMAGE, ODOMETRY, POINT_CLOUD, TRANSFORMS
from perception.sources.synthetic import SyntheticSource
from tests.unit.small_bag import KINDS, Logged, Ros, logged_drive, sweep_rows, write_bag

DRIVE = SyntheticSource(seed=3, duration_s=0.4)
MESSAGES = [message for message in DRIVE.messages() if not isinstance(message, RouteCommand)]
SWEEP = next(message for message in MESSAGES if isinstance(message, LidarSweep))
MAPPING = "sensors:\n  LIDAR_TOP: {topic: /LIDAR_TOP/points, motion: compensated, intensity_max: 1.0}\n"
START_NS = 1_700_000_000_000_000_000


def known(value: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert value is not None
    return value


def _key(message: AnyMessage) -> tuple[int, int, str]:
    return message.arrival_ns, message.capture_ns, message.sensor


def _assert_same(read: AnyMessage, sent: AnyMessage) -> None:
    assert _key(read) == _key(sent)
    assert type(read) is type(sent)
    if isinstance(read, CameraFrame) and isinstance(sent, CameraFrame):
        assert read.data == sent.data
    elif isinstance(read, LidarSweep) and isinstance(sent, LidarSweep):
        assert np.array_equal(read.points_m, sent.points_m)
        assert np.array_equal(read.intensity, sent.intensity)
        assert read.ring is not None
        assert sent.ring is not None
        assert np.array_equal(read.ring, sent.ring)
    elif isinstance(read, RadarScan) and isinstance(sent, RadarScan):
        assert np.allclose(read.points_m, sent.points_m, atol=1e-4)  # polar on the way, 32 bits
        assert np.array_equal(read.radial_mps, sent.radial_mps)
        assert np.array_equal(read.rcs_dbsm, sent.rcs_dbsm)
    elif isinstance(read, EgoState) and isinstance(sent, EgoState):
        assert np.allclose(known(read.world_SE3_ego), known(sent.world_SE3_ego), atol=1e-9)
        assert np.allclose(known(read.velocity_mps), known(sent.velocity_mps), atol=1e-9)
        assert read.yaw_rate_radps == pytest.approx(sent.yaw_rate_radps)


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        ("ros1", ""),
        ("ros1", "BZ2"),
        ("ros1", "LZ4"),
        ("sqlite3", ""),
        ("sqlite3", "zstd"),
        ("mcap", ""),
        ("mcap", "zstd"),
    ],
)
def test_what_was_logged_comes_back(tmp_path: Path, kind: str, compression: str) -> None:
    path = write_bag(tmp_path, kind, logged_drive(kind, DRIVE.rig, MESSAGES), compression=compression)
    source = open_drive(str(path))
    assert isinstance(source, RosbagSource)
    assert source.drive_id == "rosbag/drive"
    read = sorted(source.messages(), key=_key)
    for one, other in zip(read, sorted(MESSAGES, key=_key), strict=True):
        _assert_same(one, other)
    assert source.span_ns == (MESSAGES[0].arrival_ns, MESSAGES[-1].arrival_ns)
    assert source.label_times_ns == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_rig_is_that_of_the_transforms_and_infos(tmp_path: Path, kind: str) -> None:
    rig = RosbagSource(write_bag(tmp_path, kind, logged_drive(kind, DRIVE.rig, MESSAGES))).rig
    assert {sensor.name for sensor in rig.sensors} == {sensor.name for sensor in DRIVE.rig.sensors}
    for sensor in rig.sensors:
        sent = DRIVE.rig[sensor.name]
        assert sensor.modality is sent.modality
        assert np.allclose(sensor.ego_SE3_sensor, sent.ego_SE3_sensor, atol=1e-12)
        assert sensor.frequency_hz == pytest.approx(sent.frequency_hz, rel=0.01)
        if sent.camera is not None:
            assert sensor.camera is not None
            assert np.array_equal(sensor.camera.intrinsic, sent.camera.intrinsic)
            assert (sensor.camera.width_px, sensor.camera.height_px) == (sent.camera.width_px, sent.camera.height_px)


def test_guesses_are_told(tmp_path: Path) -> None:
    notes = RosbagSource(write_bag(tmp_path, "mcap", logged_drive("mcap", DRIVE.rig, MESSAGES))).notes
    assert "guessed: LIDAR_TOP is /LIDAR_TOP/points (sensor_msgs/msg/PointCloud2)" in notes
    assert "poses: /odom, frame 'base_link' in 'odom'" in notes
    assert any("ego_offset_m" in note for note in notes)


@pytest.mark.parametrize("beside", [True, False])
def test_a_mapping_lies_beside_the_bag_or_is_named(tmp_path: Path, beside: bool) -> None:
    bag = write_bag(tmp_path, "ros1", logged_drive("ros1", DRIVE.rig, MESSAGES))
    mapping = tmp_path / ("topics.yaml" if beside else "mine.yaml")
    mapping.write_text(MAPPING)
    source = open_drive(str(bag) if beside else f"{bag}?topics={mapping}")
    assert [sensor.name for sensor in source.rig.sensors] == ["LIDAR_TOP"]
    assert all(m.motion is SweepMotion.COMPENSATED for m in source.messages() if isinstance(m, LidarSweep))
    assert any(str(mapping) in note for note in source.notes)


IMAGES = "/CAM_FRONT/image_raw/compressed"
NO_SIZE = "width_px: 0, height_px: 0, focal_px: [1, 1], center_px: [0, 0]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MAPPING.replace("/LIDAR_TOP/points", "/lidar"), "no topic '/lidar'; there are .*/LIDAR_TOP/points"),
        (MAPPING.replace("motion", "motions"), "motions"),
        (MAPPING.replace("compensated", "both"), "both"),
        ("sensors: [", "no valid YAML"),
        ("sensors:\n  top: {topik: /LIDAR_TOP/points}\n", "sensors.top: .*topik.*known are topic, info"),
        ("sensors:\n  a: {topic: /LIDAR_TOP/points}\n  b: {topic: /LIDAR_TOP/points}\n", "is a already"),
        ("sensors:\n  ego: {topic: /LIDAR_TOP/points}\n", "a name other than 'ego'"),
        ("sensors:\n  a: {topic: /LIDAR_TOP/points, info: /odom}\n", "`info` and `camera` are for cameras"),
        ("sensors:\n  a: {topic: /LIDAR_TOP/points, mount: {translation_m: [.nan, 0, 0]}}\n", "mount: .* finite"),
        (f"sensors:\n  a: {{topic: {IMAGES}, info: /odom}}\n", "info: /odom is nav_msgs/msg/Odometry, not"),
        (f"sensors:\n  a: {{topic: {IMAGES}, camera: {{{NO_SIZE}}}}}\n", "camera of a: image size"),
        ("ego_frame: car\n", "ego_frame: no frame 'car'; there are .*base_link"),
        ("sensors:\n  pose: {topic: /odom}\n", "/odom is nav_msgs/msg/Odometry"),
        (MAPPING + "poses: /gps\n", "no odometry topic '/gps'; there are /odom"),
    ],
)
def test_a_wrong_mapping_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    bag = write_bag(tmp_path, "ros1", logged_drive("ros1", DRIVE.rig, MESSAGES))
    (tmp_path / "topics.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"topics.yaml: (?s:.*){reason}"):
        RosbagSource(bag)


def _lidar_bag(folder: Path, kind: str, stamps_ns: list[int], log_ns: list[int], *more: Logged) -> Path:
    ros = Ros(kind)
    links = {("base_link", "lidar"): se3(translation=(1.0, 0.0, 2.0))}
    logged = [Logged("/tf_static", TRANSFORMS, log_ns[0], ros.transforms(0, links))]
    for stamp, log in zip(stamps_ns, log_ns, strict=True):
        logged.append(Logged("/points", POINT_CLOUD, log, ros.cloud(stamp, "lidar", sweep_rows(SWEEP))))
    return write_bag(folder, kind, [*logged, *more])


@pytest.mark.parametrize("kind", KINDS)
def test_stamps_of_zero_are_the_log_times_and_a_note_says_so(tmp_path: Path, kind: str) -> None:
    log_ns = [START_NS + k * 100_000_000 for k in range(3)]
    source = RosbagSource(_lidar_bag(tmp_path, kind, [0, 0, 0], log_ns))
    assert [message.capture_ns for message in source.messages()] == log_ns
    assert "/points: header stamps are 0; the log time is taken" in source.notes
    assert source.rig["points"].frequency_hz == pytest.approx(10.0)


def test_a_bag_that_was_logged_anew_keeps_the_delays_between_its_messages(tmp_path: Path) -> None:
    stamps = [START_NS + k * 100_000_000 for k in range(3)]
    year_ns = 365 * 86_400 * 1_000_000_000
    log_ns = [stamp + year_ns + delay for stamp, delay in zip(stamps, (5_000_000, 9_000_000, 7_000_000), strict=True)]
    source = RosbagSource(_lidar_bag(tmp_path, "mcap", stamps, log_ns))
    messages = list(source.messages())
    assert [message.capture_ns for message in messages] == stamps
    assert [message.arrival_ns - message.capture_ns for message in messages] == [0, 4_000_000, 2_000_000]
    assert source.span_ns == (messages[0].arrival_ns, messages[-1].arrival_ns)
    assert any("clocks differ" in note for note in source.notes)


def test_messages_come_in_order_where_a_stamp_is_ahead_of_the_log(tmp_path: Path) -> None:
    stamps = [START_NS + k * 100_000_000 for k in range(9)]
    log_ns = [stamp + 10_000_000 for stamp in stamps]
    log_ns[7] = stamps[7] - 150_000_000
    stamps[8] = stamps[8] + 5_000_000_000
    source = RosbagSource(_lidar_bag(tmp_path, "sqlite3", stamps, log_ns))
    messages = list(source.messages())
    arrivals = [message.arrival_ns for message in messages]
    assert arrivals == sorted(arrivals)
    assert all(message.arrival_ns >= message.capture_ns for message in messages)
    (broken,) = [message for message in messages if isinstance(message, Unreadable)]
    assert "4.99 s after it was logged" in broken.error


def test_poses_come_from_transforms_where_there_is_no_odometry(tmp_path: Path) -> None:
    """`/tf` moves base_footprint, the lidar hangs on base_link above it; a wheel turns, and a map corrects."""
    ros = Ros("mcap")
    logged, poses = [], []
    static = {("base_footprint", "base_link"): se3(translation=(0, 0, 0.3)), ("base_link", "lidar"): se3()}
    logged.append(Logged("/tf_static", TRANSFORMS, START_NS, ros.transforms(START_NS, static)))
    for k in range(3):
        time_ns = START_NS + k * 100_000_000
        poses.append(se3_from_yaw(0.1 * k, (k, 2.0, 0.0)))
        links = {
            ("base_link", "wheel"): se3_from_yaw(k),
            ("map", "odom"): se3(translation=(k, 0, 0)),
            ("odom", "base_footprint"): poses[-1],
        }
        logged.append(Logged("/tf", TRANSFORMS, time_ns, ros.transforms(time_ns, links)))
        logged.append(Logged("/points", POINT_CLOUD, time_ns, ros.cloud(time_ns, "lidar", sweep_rows(SWEEP))))
    source = RosbagSource(write_bag(tmp_path, "mcap", logged))
    states = [message for message in source.messages() if isinstance(message, EgoState)]
    assert len(states) == 3
    for state, pose in zip(states, poses, strict=True):
        assert np.allclose(known(state.world_SE3_ego), pose, atol=1e-12)
        assert state.velocity_mps is None
    assert np.allclose(source.rig["points"].ego_SE3_sensor, se3(translation=(0, 0, 0.3)))
    assert "poses: /tf, frame 'base_footprint' in 'odom'" in source.notes


def test_odometry_of_another_frame_is_moved_to_the_ego(tmp_path: Path) -> None:
    """An inertial unit 2 m ahead of the ego and turned by 90 degrees; the car goes 5 m/s ahead and turns."""
    ros = Ros("mcap")
    ego_SE3_imu = se3_from_yaw(np.pi / 2, (2.0, 0.0, 0.0))
    static = {("base_link", "imu"): ego_SE3_imu, ("base_link", "lidar"): se3()}
    pose = se3_from_yaw(0.3, (10.0, 20.0, 0.0))
    # At the unit the ground goes by at (5, 0.2 * 2) m/s in ego axes, so at (0.4, -5) in its own.
    odometry = ros.odometry(START_NS, pose @ ego_SE3_imu, (0.4, -5.0, 0, 0, 0, 0.2), child="imu")
    logged = [
        Logged("/tf_static", TRANSFORMS, START_NS, ros.transforms(0, static)),
        Logged("/odometry", ODOMETRY, START_NS, odometry),
        Logged("/still", ODOMETRY, START_NS, ros.odometry(START_NS, pose, child="base_link")),
        Logged("/points", POINT_CLOUD, START_NS, ros.cloud(START_NS, "lidar", sweep_rows(SWEEP))),
    ]
    path = write_bag(tmp_path, "mcap", logged)
    (state,) = [message for message in RosbagSource(path).messages() if isinstance(message, EgoState)]
    assert np.allclose(known(state.world_SE3_ego), pose, atol=1e-9)
    assert np.allclose(known(state.velocity_mps), (5.0, 0.0), atol=1e-9)
    assert state.yaw_rate_radps == pytest.approx(0.2)
    (path / "topics.yaml").write_text("poses: /still\n")
    (state,) = [message for message in RosbagSource(path).messages() if isinstance(message, EgoState)]
    assert np.allclose(known(state.world_SE3_ego), pose, atol=1e-9)
    assert state.velocity_mps is None  # nobody filled the twist in


def test_the_ego_frame_is_put_on_the_road(tmp_path: Path) -> None:
    path = _lidar_bag(tmp_path, "mcap", [START_NS], [START_NS])
    (path / "topics.yaml").write_text("ego_offset_m: [-1.0, 0.0, -0.4]\n")
    mount = RosbagSource(path).rig["points"].ego_SE3_sensor
    assert np.allclose(mount[:3, 3], (2.0, 0.0, 2.4))


def test_a_frame_without_a_place_is_named_with_the_remedy(tmp_path: Path) -> None:
    stray = Ros("ros1").cloud(START_NS, "roof", sweep_rows(SWEEP))
    path = _lidar_bag(tmp_path, "ros1", [START_NS], [START_NS], Logged("/roof/points", POINT_CLOUD, START_NS, stray))
    with pytest.raises(DriveError, match=r"/roof/points: no transform from its frame 'roof' .*/tf_static.*`mount`"):
        RosbagSource(path)
    mapping = tmp_path / "topics.yaml"
    mapping.write_text("sensors:\n  roof: {topic: /roof/points, mount: {translation_m: [0.5, 0, 1.9]}}\n")
    mount = RosbagSource(path).rig["roof"].ego_SE3_sensor
    assert np.allclose(invert(mount)[:3, 3], (-0.5, 0, -1.9))


def test_a_bag_without_sensors_says_what_it_takes(tmp_path: Path) -> None:
    ros = Ros("mcap")
    path = write_bag(tmp_path, "mcap", [Logged("/odom", ODOMETRY, START_NS, ros.odometry(START_NS, se3()))])
    with pytest.raises(DriveError, match="no sensor has a message; types of sensors are"):
        RosbagSource(path)


def test_images_without_calibration_are_left_out_with_a_note_or_described(tmp_path: Path) -> None:
    frame = next(message for message in MESSAGES if isinstance(message, CameraFrame))
    ros = Ros("sqlite3")
    data = np.frombuffer(frame.data, dtype=np.uint8)
    image = ros.make(COMPRESSED_IMAGE, header=ros.header(START_NS, "base_link"), format="jpeg", data=data)
    path = _lidar_bag(tmp_path, "sqlite3", [START_NS], [START_NS], Logged("/cam", COMPRESSED_IMAGE, START_NS, image))
    source = RosbagSource(path)
    assert [sensor.name for sensor in source.rig.sensors] == ["points"]
    assert any(note.startswith("not read: /cam (no CameraInfo") for note in source.notes)
    (path / "topics.yaml").write_text("sensors:\n  front: {topic: /cam}\n")
    with pytest.raises(DriveError, match="/cam: no CameraInfo for it was found; name its topic as `info` of front"):
        RosbagSource(path)
    camera = "{width_px: 400, height_px: 225, focal_px: [300, 300], center_px: [199.5, 112]}"
    (path / "topics.yaml").write_text(f"sensors:\n  front: {{topic: /cam, camera: {camera}}}\n")
    source = RosbagSource(path)
    # base_link is no frame of images: the camera is taken to look ahead.
    assert np.allclose(source.rig["front"].ego_SE3_sensor[:3, 2], (1, 0, 0))
    assert any("no optical frame" in note for note in source.notes)
    (read,) = list(source.messages())[-1:]
    assert isinstance(read, CameraFrame)
    assert read.data == frame.data
    assert source.rig.of(Modality.CAMERA)[0].name == "front"


def test_the_example_of_a_mapping_can_be_read() -> None:
    config = read_topics(Path(__file__).parents[2] / "configs" / "topics" / "example.yaml")
    assert config.poses == "/localization/odometry"
    mount = config.sensors["CAM_REAR"].mount
    assert mount is not None
    # It looks back: the camera's z axis is the ego's -x axis, its x axis the ego's y axis.
    rotation = quaternion_to_rotation(mount.quaternion_wxyz)
    assert np.allclose(rotation[:, 2], (-1, 0, 0), atol=1e-12)
    assert np.allclose(rotation[:, 1], (0, 0, -1), atol=1e-12)
