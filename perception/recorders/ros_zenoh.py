"""Publishes results to ROS 2 nodes that use `rmw_zenoh`, as if by a node named `perception`.

Protocol: the key of a message is `<domain>/<topic>/<type>/<hash of the type>`, its attachment a 64-bit number, a 64-bit
time and 16 bytes naming the publisher; nodes and publishers show themselves by liveliness tokens under `@ros2_lv`
(docs/design.md and liveliness_utils.cpp of github.com/ros2/rmw_zenoh, releases from Jazzy on; hashes: REP 2016).
"""

import hashlib
import json
import struct
import time
from dataclasses import dataclass

import zenoh

from perception.core.errors import QueueError
from perception.core.results import PerceptionResult
from perception.recorders.ros_messages import RosMessage, ros_messages, typestore

NODE = "perception"
ROUTER = "tcp/127.0.0.1:7447"
"""Where `ros2 run rmw_zenoh_cpp rmw_zenohd` listens."""
DEFAULT_QOS = "::,:,:,:,,"
GID_BYTES = 16


@dataclass(slots=True)
class Topic:
    """One publisher. token: kept, because dropping it says that the publisher has gone."""

    key: str
    gid: bytes
    token: zenoh.LivelinessToken
    sent: int = 0


class RosZenoh:
    """A client of the Zenoh router at `endpoint`. Raises QueueError where there is none."""

    def __init__(self, endpoint: str = ROUTER, *, domain: int = 0) -> None:
        config = zenoh.Config()
        for name, value in {
            "mode": "client",
            "connect/endpoints": [endpoint],
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
        }.items():
            config.insert_json5(name, json.dumps(value))
        try:
            self._session = zenoh.open(config)
        except zenoh.ZError as error:
            raise QueueError(f"no Zenoh router at {endpoint}; is rmw_zenohd running? {error}") from None
        self._domain = domain
        self._tokens = f"@ros2_lv/{domain}/{self._session.zid()}/0"
        self._node = self._session.liveliness().declare_token(f"{self._tokens}/0/NN/%/%/{NODE}")
        self._topics: dict[str, Topic] = {}

    def write(self, result: PerceptionResult) -> None:
        """Raises DriveError where the capture clock does not fit ROS, QueueError where Zenoh refuses."""
        for message in ros_messages(result):
            topic = self._topic(message)
            topic.sent += 1
            attachment = struct.pack("<qqB", topic.sent, time.time_ns(), GID_BYTES) + topic.gid
            try:
                self._session.put(topic.key, message.cdr, attachment=attachment)
            except zenoh.ZError as error:
                raise QueueError(f"cannot publish {message.topic}: {error}") from error

    def close(self) -> None:
        self._session.close()  # type: ignore[no-untyped-call]

    def _topic(self, message: RosMessage) -> Topic:
        if message.topic not in self._topics:
            self._topics[message.topic] = self._declare(message)
        return self._topics[message.topic]

    def _declare(self, message: RosMessage) -> Topic:
        package, _, name = message.type_name.split("/")
        type_key = f"{package}::msg::dds_::{name}_/{typestore().hash_rihs01(message.type_name)}"
        entity = len(self._topics) + 1
        mangled = message.topic.replace("/", "%")
        token = f"{self._tokens}/{entity}/MP/%/%/{NODE}/{mangled}/{type_key}/{DEFAULT_QOS}"
        return Topic(
            key=f"{self._domain}/{message.topic.strip('/')}/{type_key}",
            # Any 16 bytes of its own will do: nodes only tell publishers apart by them.
            gid=hashlib.blake2b(token.encode(), digest_size=GID_BYTES).digest(),
            token=self._session.liveliness().declare_token(token),
        )
