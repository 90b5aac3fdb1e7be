"""Results as ROS 2 sees them: the right types, fields, frames and times, read back by an independent reader."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from perception.core.errors import DriveError, UsageError
from perception.core.geometry import quaternion_to_rotation, yaw_of
from perception.core.results import NO_TRACK, Detections, PathHints, PerceptionResult
from perception.queues.samples import sample_result
from perception.recorders.ros_bag import RosBag
from perception.recorders.ros_messages import DETECTIONS, PATH, TRANSFORMS, ros_messages, typestore

# As rosidl computes them from the released packages (REP 2016): a wrong field, name or order gives another hash.
HASHES = {
    DETECTIONS: "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    PATH: "RIHS01_1957a5bb3cee5da65c4e52e52b65a93df227efce4c20f8458b36e73066ca334b",
    TRANSFORMS: "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}


@pytest.fixture
def result() -> PerceptionResult:
    return sample_result(np.random.default_rng(4), sequence=3, detections=5, modes=2)


def read(result: PerceptionResult) -> dict[str, Any]:
    """The messages of a result by topic, as ROS would read their bytes."""
    store = typestore()
    return {message.topic: store.deserialize_cdr(message.cdr, message.type_name) for message in ros_messages(result)}


def rotation(quaternion: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return quaternion_to_rotation([quaternion.w, quaternion.x, quaternion.y, quaternion.z])


def vector(message: Any) -> list[float]:
    return [message.x, message.y, message.z]


def time_ns(header: Any) -> int:
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


@pytest.mark.parametrize("type_name", list(HASHES))
def test_the_types_are_those_of_ros(type_name: str) -> None:
    assert typestore().hash_rihs01(type_name) == HASHES[type_name]


def test_boxes_keep_label_score_place_size_heading_and_track(result: PerceptionResult) -> None:
    track_id = np.array([NO_TRACK, 0, 7, 8, 9])
    sent = replace(result, detections=replace(result.detections, track_id=track_id))
    message = read(sent)["/perception/detections"]
    assert (message.header.frame_id, time_ns(message.header)) == ("base_link", sent.reference_ns)
    assert len(message.detections) == 5
    for box, detection in zip(message.detections, sent.detections, strict=True):
        (hypothesis,) = box.results
        assert hypothesis.hypothesis.class_id == detection.label
        assert hypothesis.hypothesis.score == pytest.approx(detection.score)
        assert vector(box.bbox.center.position) == pytest.approx(detection.center_m)
        assert vector(hypothesis.pose.pose.position) == pytest.approx(detection.center_m)
        assert vector(box.bbox.size) == pytest.approx(detection.size_m)
        assert float(yaw_of(rotation(box.bbox.center.orientation))) == pytest.approx(detection.yaw_rad, abs=1e-6)
        assert box.id == ("" if detection.track_id is None else str(detection.track_id))
        assert box.header.frame_id == "base_link"


def test_paths_keep_points_and_times_and_look_ahead(result: PerceptionResult) -> None:
    points = np.array([[[1, 0], [1, 2]], [[0, -1], [-3, -1]]], dtype=np.float32)
    hints = PathHints(
        confidence=np.array([0.75, 0.25], dtype=np.float32),
        waypoints_m=points,
        times_s=np.array([0.5, 1.0], dtype=np.float32),
        target_speed_mps=3.0,
    )
    messages = read(replace(result, path_hints=hints))
    headings = ((0, np.pi / 2), (-np.pi / 2, np.pi))
    for mode in range(2):
        path = messages[f"/perception/path_hints/mode_{mode}"]
        assert (path.header.frame_id, time_ns(path.header)) == ("base_link", result.reference_ns)
        assert [vector(pose.pose.position)[:2] for pose in path.poses] == points[mode].tolist()
        assert [time_ns(pose.header) - result.reference_ns for pose in path.poses] == [500_000_000, 1_000_000_000]
        seen = [float(yaw_of(rotation(pose.pose.orientation))) for pose in path.poses]
        assert np.cos(np.subtract(seen, headings[mode])) == pytest.approx(1)


def test_the_ego_is_placed_in_the_world_where_it_is_known(result: PerceptionResult) -> None:
    assert result.world_SE3_ego is not None
    (transform,) = read(result)["/tf"].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("map", "base_link")
    assert time_ns(transform.header) == result.reference_ns
    assert vector(transform.transform.translation) == pytest.approx(result.world_SE3_ego[:3, 3])
    assert rotation(transform.transform.rotation) == pytest.approx(result.world_SE3_ego[:3, :3])
    assert "/tf" not in read(replace(result, world_SE3_ego=None))


def test_an_empty_result_is_an_empty_message(result: PerceptionResult) -> None:
    nothing = np.zeros(0, dtype=np.float32)
    hints = PathHints(confidence=nothing, waypoints_m=nothing.reshape(0, 0, 2), times_s=nothing, target_speed_mps=0.0)
    messages = read(replace(result, detections=Detections.empty(), path_hints=hints, world_SE3_ego=None))
    assert list(messages) == ["/perception/detections"]
    assert messages["/perception/detections"].detections == []


@pytest.mark.parametrize("reference_ns", [2**31 * 1_000_000_000, -(2**31) * 1_000_000_000 - 1])
def test_a_time_that_ros_cannot_say_is_refused(result: PerceptionResult, reference_ns: int) -> None:
    with pytest.raises(DriveError, match=str(reference_ns)):
        ros_messages(replace(result, reference_ns=reference_ns))


def test_a_bag_holds_every_message_in_order_and_describes_its_own_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sent = [sample_result(rng, sequence=n, detections=3, modes=2) for n in range(4)]
    bag = RosBag(tmp_path / "bag")
    for result in sent:
        bag.write(result)
    bag.close()
    with AnyReader([tmp_path / "bag"]) as reader:
        assert {connection.topic: connection.msgcount for connection in reader.connections} == {
            "/perception/detections": 4,
            "/perception/path_hints/mode_0": 4,
            "/perception/path_hints/mode_1": 4,
            "/tf": 4,
        }
        assert {connection.digest for connection in reader.connections} == set(HASHES.values())
        logged = [time for connection, time, _ in reader.messages() if connection.topic == "/tf"]
        boxes = [
            reader.deserialize(raw, connection.msgtype)
            for connection, _, raw in reader.messages()
            if connection.msgtype == DETECTIONS
        ]
    assert logged == [result.reference_ns for result in sent]
    for message, result in zip(boxes, sent, strict=True):
        labels = [box.results[0].hypothesis.class_id for box in message.detections]  # type: ignore[attr-defined]
        assert labels == [detection.label for detection in result.detections]


def test_the_standard_types_alone_read_paths_and_transforms(result: PerceptionResult) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    for message in ros_messages(result):
        if message.type_name != DETECTIONS:
            again = store.serialize_cdr(store.deserialize_cdr(message.cdr, message.type_name), message.type_name)
            assert bytes(again) == message.cdr


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        RosBag(tmp_path)


def test_a_bag_without_results_can_be_opened(tmp_path: Path) -> None:
    RosBag(tmp_path / "bag").close()
    with AnyReader([tmp_path / "bag"]) as reader:
        assert reader.message_count == 0


def test_a_time_before_1970_is_refused_by_the_bag(tmp_path: Path, result: PerceptionResult) -> None:
    bag = RosBag(tmp_path / "bag")
    with pytest.raises(DriveError, match="1970"):
        bag.write(replace(result, reference_ns=-1))
    bag.close()


def test_another_library_reads_the_bag_by_the_definitions_within(tmp_path: Path, result: PerceptionResult) -> None:
    reader = pytest.importorskip("mcap_ros2.reader")
    bag = RosBag(tmp_path / "bag")
    bag.write(result)
    bag.close()
    messages = {read.channel.topic: read.ros_msg for read in reader.read_ros2_messages(tmp_path / "bag" / "bag.mcap")}
    assert set(messages) == {"/perception/detections", *(f"/perception/path_hints/mode_{n}" for n in (0, 1)), "/tf"}
    for box, detection in zip(messages["/perception/detections"].detections, result.detections, strict=True):
        assert box.results[0].hypothesis.class_id == detection.label
        assert vector(box.bbox.center.position) == pytest.approx(detection.center_m)
    (transform,) = messages["/tf"].transforms
    assert time_ns(transform.header) == result.reference_ns
