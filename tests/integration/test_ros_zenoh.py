"""What nodes on rmw_zenoh see of us: keys, attachments and tokens as its design says them, over a real router."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import zenoh
from zenoh.ext import Int64, z_deserialize

pytest.importorskip("rosbags")

from perception.core.errors import QueueError
from perception.queues.samples import sample_result
from perception.recorders.ros_messages import DETECTIONS, typestore
from perception.recorders.ros_zenoh import RosZenoh
from tests.contract.brokers import free_port
from tests.ros2_vehicle import router as open_router
from tests.ros2_vehicle import session

PATIENCE_S = 30.0
TYPE = "vision_msgs::msg::dds_::Detection3DArray_"
HASH = "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018"


@pytest.fixture
def router() -> Iterator[str]:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    opened = open_router(endpoint)
    yield endpoint
    opened.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def node(router: str) -> Iterator[zenoh.Session]:
    """A session as that of a ROS node: a peer connected to the router."""
    opened = session(
        **{"mode": "peer", "connect/endpoints": [router], "listen/endpoints": [f"tcp/127.0.0.1:{free_port()}"]}
    )
    yield opened
    opened.close()  # type: ignore[no-untyped-call]


def test_a_subscription_gets_numbered_messages_under_the_key_of_its_topic(router: str, node: zenoh.Session) -> None:
    samples: list[zenoh.Sample] = []
    enough = threading.Event()

    def take(sample: zenoh.Sample) -> None:
        samples.append(sample)
        if len(samples) >= 3:
            enough.set()

    node.declare_subscriber(f"3/perception/detections/{TYPE}/{HASH}", take)
    ros = RosZenoh(router, domain=3)
    rng = np.random.default_rng(0)
    sequence = 0
    while not enough.wait(0.02):
        assert sequence < PATIENCE_S / 0.02
        ros.write(sample_result(rng, sequence=sequence, detections=sequence % 7))
        sequence += 1
    ros.close()
    attachments = [sample.attachment for sample in samples]
    assert all(attachment is not None and len(bytes(attachment)) == 33 for attachment in attachments)
    marks = [z_deserialize(tuple[Int64, Int64, bytes], attachment) for attachment in attachments if attachment]
    numbers = [number for number, _, _ in marks]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len({gid for _, _, gid in marks}) == 1
    assert len(marks[0][2]) == 16
    for sample, number in zip(samples, numbers, strict=True):
        message = typestore().deserialize_cdr(bytes(sample.payload), DETECTIONS)
        assert len(message.detections) == (number - 1) % 7  # type: ignore[attr-defined]


def tokens(node: zenoh.Session) -> set[str]:
    """What shows itself in domain 0, without the part that names the session."""
    replies = node.liveliness().get("@ros2_lv/0/**", timeout=PATIENCE_S)
    keys = [str(reply.ok.key_expr) for reply in replies if reply.ok is not None]
    return {"/".join(key.split("/")[3:]) for key in keys}


def tokens_once(wanted: set[str], node: zenoh.Session) -> set[str]:
    """What shows itself as soon as it is `wanted`, at the latest after `PATIENCE_S`: the router passes tokens on
    one by one, so that a question asked right after they were declared may see only the first."""
    deadline = time.monotonic() + PATIENCE_S
    while (seen := tokens(node)) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def test_the_node_and_its_publishers_show_themselves_and_leave(router: str, node: zenoh.Session) -> None:
    ros = RosZenoh(router)
    ros.write(replace(sample_result(np.random.default_rng(0), sequence=0, modes=0), world_SE3_ego=None))
    wanted = {
        "0/0/NN/%/%/perception",
        f"0/1/MP/%/%/perception/%perception%detections/{TYPE}/{HASH}/::,:,:,:,,",
    }
    assert tokens_once(wanted, node) == wanted
    ros.close()
    assert tokens_once(set(), node) == set()


def test_without_a_router_there_is_a_clear_error() -> None:
    with pytest.raises(QueueError, match="rmw_zenohd"):
        RosZenoh(f"tcp/127.0.0.1:{free_port()}")
