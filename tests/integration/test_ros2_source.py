"""A vehicle whose nodes use `rmw_zenoh`, over a real router: as a source of this process, and of `perception serve`."""

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")

from perception.core.errors import DriveError, UsageError
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, Unreadable
from perception.core.ports import LiveSource
from perception.formats.ros_zenoh import UNKNOWN_HASH
from perception.formats.zenoh_session import close_session
from perception.recorders.ros_sensor_bag import CLOUD
from perception.sources import ros2
from perception.sources.ros2 import Ros2Source
from perception.sources.synthetic import SyntheticSource
from tests.contract.brokers import free_port
from tests.integration.conftest import Start
from tests.integration.test_serve_command import Consumer, Served, write
from tests.ros2_vehicle import Ros2Vehicle
from tests.ros2_vehicle import router as open_router
from tests.unit.service_parts import PATIENCE_S, until
from tests.unit.test_live_sources import Listening

DOMAIN = 3
LIDAR, FRONT = "/LIDAR_TOP/points", "/CAM_FRONT/image/compressed"
SOME = (LIDAR, FRONT, "/odom")
WAIT = f"wait={PATIENCE_S:g}"


@pytest.fixture(scope="module")
def drive() -> SyntheticSource:
    return SyntheticSource(seed=2, duration_s=1.5)


@pytest.fixture(scope="module")
def messages(drive: SyntheticSource) -> list[AnyMessage]:
    return list(drive.messages())


@pytest.fixture
def router() -> Iterator[str]:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    opened = open_router(endpoint)
    yield endpoint
    close_session(opened)


@pytest.fixture
def vehicle(router: str, drive: SyntheticSource, messages: list[AnyMessage]) -> Iterator[Ros2Vehicle]:
    """One that told its transforms long ago, and will not again."""
    made = Ros2Vehicle(router, domain=DOMAIN)
    made.calibrate(drive.rig, messages[0])
    yield made
    made.close()


def heard(listening: Listening) -> Counter[tuple[str, type]]:
    return Counter((message.sensor, type(message)) for message in list(listening.found))


def test_topics_are_a_live_source(
    router: str, vehicle: Ros2Vehicle, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    with vehicle.drive(drive.rig, messages), closing(Ros2Source(f"{router}?domain={DOMAIN}&{WAIT}")) as source:
        assert isinstance(source, LiveSource)
        assert source.drive_id == f"ros2/{router.removeprefix('tcp/')}/{DOMAIN}"
        assert any("guessed: CAM_FRONT is /CAM_FRONT/image/compressed" in note for note in source.notes)
        for sensor in source.rig.sensors:
            wanted = drive.rig[sensor.name]
            assert np.allclose(sensor.ego_SE3_sensor, wanted.ego_SE3_sensor)
            if sensor.camera is not None and wanted.camera is not None:
                assert np.allclose(sensor.camera.intrinsic, wanted.camera.intrinsic)
        listening = Listening(source)
        cameras = {sensor.name for sensor in drive.rig.sensors if sensor.camera is not None}
        kinds = {("LIDAR_TOP", LidarSweep), ("ego", EgoState), *((name, CameraFrame) for name in cameras)}
        until(lambda: all(heard(listening)[kind] > 5 for kind in kinds), lambda: str(heard(listening)))
        source.interrupt()
        found = listening.join()
    assert listening.problem is None
    assert source.lost == 0
    assert set(heard(listening)) == kinds
    assert all(first.arrival_ns <= second.arrival_ns for first, second in pairwise(found))
    assert all(message.capture_ns <= message.arrival_ns for message in found)
    images = {bytes(message.data) for message in messages if isinstance(message, CameraFrame)}
    assert all(bytes(message.data) in images for message in found if isinstance(message, CameraFrame))


def test_a_mapping_names_the_sensors_that_are_waited_for(
    tmp_path: Path, router: str, vehicle: Ros2Vehicle, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    """One of them begins late, with a broken message, and its release of ROS knows no hashes."""
    mapping = tmp_path / "my topics.yaml"
    mapping.write_text(f"sensors:\n  roof: {{topic: {LIDAR}}}\n  ahead: {{topic: {FRONT}}}\n")
    opened: list[Ros2Source] = []
    address = f"{router}?domain={DOMAIN}&topics={mapping}&{WAIT}"
    opening = threading.Thread(target=lambda: opened.append(Ros2Source(address)))
    with vehicle.drive(drive.rig, messages, only=(FRONT, "/odom", "/CAM_BACK/image/compressed")):
        opening.start()
        opening.join(2.0)
        assert opening.is_alive(), "the lidar's node is not there yet"
        vehicle.put(LIDAR, CLOUD, b"broken", hashed=UNKNOWN_HASH)
        with vehicle.drive(drive.rig, messages, only=(LIDAR,)):
            opening.join(PATIENCE_S)
            (source,) = opened
            with closing(source):
                assert [sensor.name for sensor in source.rig.sensors] == ["roof", "ahead"]
                listening = Listening(source)
                until(lambda: {"roof", "ahead", "ego"} <= {sensor for sensor, _ in heard(listening)})
                source.interrupt()
                listening.join()


def test_what_is_wrong_is_explained(
    tmp_path: Path, router: str, vehicle: Ros2Vehicle, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    with pytest.raises(DriveError, match=r"nobody published sensors within 0\.2 s; .* ROS_DOMAIN_ID=4"):
        Ros2Source(f"{router}?domain=4&wait=0.2")
    mapping = tmp_path / "topics.yaml"
    mapping.write_text("sensors:\n  roof: {topic: /roof/points}\n")
    with vehicle.drive(drive.rig, messages, only=SOME):
        with pytest.raises(
            UsageError, match=r"topics\.yaml: sensor roof: no topic '/roof/points'; there are .*LIDAR_TOP"
        ):
            Ros2Source(f"{router}?domain={DOMAIN}&topics={mapping}&wait=1")
        mapping.write_text("sensors:\n  roof: {topic: /scan}\n")
        vehicle.put("/scan", "sensor_msgs/msg/LaserScan", b"")
        with pytest.raises(UsageError, match="/scan is sensor_msgs/msg/LaserScan; types of sensors are"):
            Ros2Source(f"{router}?domain={DOMAIN}&topics={mapping}&wait=1")
        mapping.write_text("sensors:\n  roof: {topik: /roof/points}\n")
        with pytest.raises(UsageError, match=r"topics\.yaml: sensors\.roof: .*topik"):
            Ros2Source(f"{router}?domain={DOMAIN}&topics={mapping}")
        vehicle.put("/other/points", CLOUD, b"", hashed="RIHS01_0")
        with pytest.raises(
            DriveError, match=r"\?domain=3: /other/points: its sensor_msgs/msg/PointCloud2 has other fields"
        ):
            Ros2Source(f"{router}?domain={DOMAIN}&wait=1")


def test_without_transforms_the_frames_are_named(
    router: str, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    missing = "no transform from its frame 'LIDAR_TOP' to the ego frame 'base_link'"
    with (
        closing(Ros2Vehicle(router)) as vehicle,
        vehicle.drive(drive.rig, messages, only=SOME),
        pytest.raises(DriveError, match=missing),
    ):
        Ros2Source(f"{router}?wait=1.5")


def test_nodes_that_come_and_go(
    router: str,
    vehicle: Ros2Vehicle,
    drive: SyntheticSource,
    messages: list[AnyMessage],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One node restarts, another publishes what cannot be read, a third is new; at last all are gone."""
    monkeypatch.setattr(ros2, "GONE_S", 0.5)
    with vehicle.drive(drive.rig, messages, only=SOME):
        source = Ros2Source(f"{router}?domain={DOMAIN}&{WAIT}")
    with closing(source):
        listening = Listening(source)
        vehicle.leave(LIDAR)
        with vehicle.drive(drive.rig, messages, only=SOME):
            until(lambda: heard(listening)["LIDAR_TOP", LidarSweep] > 5)
        assert source.lost == 0
        with caplog.at_level(logging.WARNING):
            vehicle.put("/rear/points", CLOUD, b"")
            until(lambda: "/rear/points (sensor_msgs/msg/PointCloud2) appeared after" in caplog.text)
        vehicle.put(LIDAR, CLOUD, b"\x00\x01", skips=4)
        until(lambda: heard(listening)["LIDAR_TOP", Unreadable] == 1)
        assert source.lost == 4
        vehicle.leave(LIDAR)
        vehicle.put(LIDAR, CLOUD, b"", hashed="RIHS01_0")
        until(lambda: heard(listening)["LIDAR_TOP", Unreadable] == 2)
        last = listening.found[-1]
        assert isinstance(last, Unreadable)
        assert "its publisher has another sensor_msgs/msg/PointCloud2 (RIHS01_0)" in last.error
        vehicle.leave(LIDAR)
        vehicle.leave("/odom")
        listening.thread.join(1.0)
        assert listening.thread.is_alive(), "the camera is still there"
        vehicle.leave(FRONT)
        listening.join()
        assert listening.problem is None


def test_a_router_that_goes_ends_the_messages(
    drive: SyntheticSource, messages: list[AnyMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ros2, "GONE_S", 0.5)
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    routing = open_router(endpoint)
    with closing(Ros2Vehicle(endpoint)) as vehicle:
        vehicle.calibrate(drive.rig, messages[0])
        with vehicle.drive(drive.rig, messages, only=SOME), closing(Ros2Source(f"{endpoint}?{WAIT}")) as source:
            listening = Listening(source)
            until(lambda: bool(listening.found))
            close_session(routing)
            listening.join()
            assert listening.problem is None


def test_the_service_perceives_what_the_nodes_publish(
    tmp_path: Path, start: Start, router: str, vehicle: Ros2Vehicle, drive: SyntheticSource, messages: list[AnyMessage]
) -> None:
    """Also after all nodes of the vehicle were started anew."""
    key = f"zenoh:test/ros2/{os.getpid()}"
    settings = {
        "vehicles": [
            {"name": "anna", "source": f"ros2:{router}?domain={DOMAIN}", "queue": f"{key}/anna"},
            {"name": "berta", "source": f"ros2:tcp/127.0.0.1:{free_port()}", "queue": f"{key}/berta"},
            {"name": "carl", "source": f"ros2:{router}?domian=1", "queue": f"{key}/carl"},
        ],
        "service": {"runtime": {"placement": "local", "threads": 1}, "queue": {"linger_s": 0.5}},
        "http": {"port": 0},
        "reconnect": {"first_s": 0.1, "longest_s": 0.5},
    }
    with closing(Consumer(f"{key}/anna")) as anna:
        with vehicle.drive(drive.rig, messages):
            served = Served(start("serve", write(tmp_path, settings)))
            until(lambda: len(anna.results) > 10, lambda: str(served.log))
            assert "rmw_zenohd" in str(served.vehicle("berta")["error"])
            assert "unknown option 'domian'; known are domain, topics, wait" in str(served.vehicle("carl")["error"])
        vehicle.close()
        until(lambda: served.vehicle("anna")["state"] in ("waiting", "starting"))
        with closing(Ros2Vehicle(router, domain=DOMAIN)) as again:
            again.calibrate(drive.rig, messages[0])
            with again.drive(drive.rig, messages):
                until(lambda: len(anna.runs()) >= 2, lambda: str(served.log))
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        until(lambda: anna.open_runs() == [])
    assert {result.drive_id for result in anna.results} == {f"ros2/{router.removeprefix('tcp/')}/{DOMAIN}"}
    assert any(result.world_SE3_ego is not None for result in anna.results)
    heard_of = {status.name for result in anna.results for status in result.sensors}
    assert {"LIDAR_TOP", "CAM_FRONT"} <= heard_of
