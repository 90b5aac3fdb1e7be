"""Publishes results to ROS 2 nodes that use `rmw_zenoh`, as if by a node named `perception`."""

import hashlib
import time
from dataclasses import dataclass

import zenoh

from perception.core.errors import QueueError
from perception.core.results import PerceptionResult
from perception.formats.ros_zenoh import (
    GID_BYTES,
    ROUTER,
    Endpoint,
    Mark,
    endpoint_token,
    node_token,
    pack_mark,
)
from perception.formats.zenoh_session import close_session, open_client
from perception.recorders.ros_messages import RosMessage, ros_messages, typestore

NODE = "perception"


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
        try:
            self._session = open_client(endpoint)
        except zenoh.ZError as error:
            raise QueueError(f"no Zenoh router at {endpoint}; is rmw_zenohd running? {error}") from None
        self._domain = domain
        self._node = self._session.liveliness().declare_token(node_token(domain, self._name, NODE))
        self._topics: dict[str, Topic] = {}

    def write(self, result: PerceptionResult) -> None:
        """Raises DriveError where the capture clock does not fit ROS, QueueError where Zenoh refuses."""
        for message in ros_messages(result):
            topic = self._topic(message)
            topic.sent += 1
            mark = pack_mark(Mark(topic.sent, time.time_ns(), topic.gid))
            try:
                self._session.put(topic.key, message.cdr, attachment=mark)
            except zenoh.ZError as error:
                raise QueueError(f"cannot publish {message.topic}: {error}") from error

    def close(self) -> None:
        close_session(self._session)

    @property
    def _name(self) -> str:
        return str(self._session.zid())

    def _topic(self, message: RosMessage) -> Topic:
        if message.topic not in self._topics:
            self._topics[message.topic] = self._declare(message)
        return self._topics[message.topic]

    def _declare(self, message: RosMessage) -> Topic:
        endpoint = Endpoint(message.topic, message.type_name, typestore().hash_rihs01(message.type_name))
        entity = len(self._topics) + 1
        token = endpoint_token(self._domain, self._name, NODE, endpoint, entity=entity, kind="MP")
        return Topic(
            key=endpoint.key(self._domain),
            # Any 16 bytes of its own will do: nodes only tell publishers apart by them.
            gid=hashlib.blake2b(token.encode(), digest_size=GID_BYTES).digest(),
            token=self._session.liveliness().declare_token(token),
        )
