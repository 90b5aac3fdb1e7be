"""Parts of the live source of ROS 2 topics that need no network: URLs, names, buffers, hashes."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config.schema import ServiceConfig
from perception.config.serving import VehicleConfig
from perception.core.errors import DriveError, UsageError
from perception.formats.ros_zenoh import (
    DEFAULT_QOS,
    Endpoint,
    Mark,
    endpoint_token,
    pack_mark,
    read_mark,
    read_publisher,
)
from perception.runtime.service_sources import open_source
from perception.sources.ros2_inbox import Inbox, Numbers
from perception.sources.ros2_url import Ros2Url, read_url
from perception.sources.rosbag_storage import Record, Topic
from perception.sources.rosbag_types import POINT_CLOUD, check_definition, type_hash

CLOUD_HASH = "RIHS01_9198cabf7da3796ae6fe19c4cb3bdd3525492988c70522628af5daa124bae2b5"
"""As ROS 2 has it: rcl/test/rcl/test_type_hash.cpp."""


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("", Ros2Url()),
        ("tcp/10.0.0.1:7447", Ros2Url(endpoint="tcp/10.0.0.1:7447")),
        ("?domain=3", Ros2Url(domain=3)),
        (
            "tls/robot:7448?domain=232&topics=maps/a b.yaml&wait=0.5",
            Ros2Url(endpoint="tls/robot:7448", domain=232, topics=Path("maps/a b.yaml"), wait_s=0.5),
        ),
    ],
)
def test_an_address_says_where_to_listen(address: str, wanted: Ros2Url) -> None:
    assert read_url(address) == wanted


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1", "'127.0.0.1' is no endpoint of Zenoh; write it as in ros2:tcp/127.0.0.1:7447"),
        ("tcp/", "no endpoint"),
        ("?topic=x", "unknown option 'topic'; known are domain, topics, wait"),
        ("?domain=3,topics=x", "domain must be a whole number from 0 to 232, got '3,topics=x'"),
        ("?domain=233", "from 0 to 232"),
        ("?domain=1.5", "whole number"),
        ("?domain", "give domain one value"),
        ("?domain=1&domain=2", "give domain one value"),
        ("?wait=nan", "wait must be seconds from 0 to 60"),
        ("?wait=-1", "wait must be seconds"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(address: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_url(address)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"ros2:{address}: ")


def test_the_service_opens_it_by_its_prefix(tmp_path: Path) -> None:
    missing = tmp_path / "topics.yaml"
    vehicle = VehicleConfig(name="anna", source=f"ros2:tcp/127.0.0.1:9?topics={missing}")
    with pytest.raises(UsageError, match=r"topics\.yaml: cannot be read"):
        open_source(vehicle, ServiceConfig())
    with pytest.raises(
        DriveError, match=r"nobody listens at tcp/127\.0\.0\.1:9; is `ros2 run rmw_zenoh_cpp rmw_zenohd`"
    ):
        open_source(vehicle.model_copy(update={"source": "ros2:tcp/127.0.0.1:9"}), ServiceConfig())


def test_a_token_tells_what_is_published() -> None:
    endpoint = Endpoint("/front/points", POINT_CLOUD, CLOUD_HASH)
    token = endpoint_token(3, "ab12", "lidar", endpoint, entity=7, kind="MP")
    assert token == (
        "@ros2_lv/3/ab12/0/7/MP/%/%/lidar/%front%points/sensor_msgs::msg::dds_::PointCloud2_/"
        f"{CLOUD_HASH}/{DEFAULT_QOS}"
    )
    assert read_publisher(token) == read_publisher(f"{token}/cpu:1") == endpoint
    assert endpoint.key(3) == f"3/front/points/sensor_msgs::msg::dds_::PointCloud2_/{CLOUD_HASH}"
    assert endpoint.key(3, any_hash=True).endswith("PointCloud2_/*")


@pytest.mark.parametrize(
    "token",
    [
        endpoint_token(3, "ab12", "lidar", Endpoint("/points", POINT_CLOUD, CLOUD_HASH), entity=7, kind="MS"),
        "@ros2_lv/3/ab12/0/0/NN/%/%/lidar",
        "@ros2_lv/0/ab/0/1/MP/%/%/n/%t/std_msgs::srv::dds_::Empty_/RIHS01_x/::,:,:,:,,",
        "",
    ],
)
def test_tokens_of_others_tell_nothing(token: str) -> None:
    assert read_publisher(token) is None


@given(st.text() | st.from_regex(r"[^/]*/[^/:]*::msg::dds_::[^/:]*_/[^/]*(/.*)?", fullmatch=True))
def test_any_text_can_come_as_a_token(text: str) -> None:
    """What is taken for a publisher's is one that would say the same."""
    for token in (text, "@ros2_lv/0/a/0/1/MP/%/%/n/" + text):
        found = read_publisher(token)
        assert found is None or read_publisher(endpoint_token(0, "a", "n", found, entity=1, kind="MP")) == found


@given(st.binary(max_size=40))
def test_any_bytes_can_be_attached(attachment: bytes) -> None:
    mark = read_mark(attachment)
    assert mark is None or pack_mark(mark) == attachment


def mark(number: int, gid: int = 1) -> bytes:
    return pack_mark(Mark(number, 0, bytes([gid] * 16)))


def test_numbers_that_are_passed_over_are_lost() -> None:
    numbers = Numbers()
    for attachment in (mark(5), mark(6), mark(1, gid=2), mark(9), b"", mark(7), mark(2, gid=2), mark(10)):
        numbers.take(attachment)
    assert numbers.lost == 2


def test_the_oldest_gives_way() -> None:
    inbox = Inbox(max_records=3, max_bytes=100)
    for number in range(5):
        inbox.put(Record("/a", number, bytes(10)))
    assert inbox.dropped == 2
    inbox.put(Record("/a", 5, bytes(85)))
    assert inbox.dropped == 4
    assert [found.log_ns for found in (inbox.take(0), inbox.take(0)) if found is not None] == [4, 5]
    inbox.put(Record("/a", 6, bytes(101)))
    assert inbox.take(0) is None
    inbox.put(Record("/a", 7, bytes(100)))
    inbox.clear()
    assert (inbox.take(0), inbox.dropped) == (None, 5)


def test_a_wait_for_more_ends_with_close() -> None:
    inbox = Inbox()
    taken: list[Record | None] = []
    waiting = threading.Thread(target=lambda: taken.append(inbox.take(600)))
    waiting.start()
    inbox.close()
    waiting.join(60)
    assert taken == [None]


def test_a_type_is_known_by_its_hash() -> None:
    assert type_hash(POINT_CLOUD) == CLOUD_HASH
    check_definition(Topic(name="/points", type_name=POINT_CLOUD, digest=CLOUD_HASH))
    with pytest.raises(DriveError, match=r"^/points: its sensor_msgs/msg/PointCloud2 has other fields"):
        check_definition(Topic(name="/points", type_name=POINT_CLOUD, digest="RIHS01_0"))
