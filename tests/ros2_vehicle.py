"""A vehicle whose ROS 2 nodes use `rmw_zenoh`, and the router they meet at; a drive is what its sensors see."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import zenoh
import zenoh.ext

from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.formats.ros_zenoh import GID_BYTES, Endpoint, Mark, endpoint_token, node_token, pack_mark
from perception.recorders.ros_sensor_bag import INFO, TRANSFORMS, logged, to_cdr
from perception.sources.rosbag_types import type_hash
from tests.contract.brokers import free_port


def session(**settings: object) -> zenoh.Session:
    config = zenoh.Config()
    for name, value in {"scouting/multicast/enabled": False, **settings}.items():
        config.insert_json5(name, json.dumps(value))
    return zenoh.open(config)


def router(endpoint: str) -> zenoh.Session:
    return session(**{"mode": "router", "listen/endpoints": [endpoint]})


@dataclass(slots=True)
class _Publisher:
    publisher: Any
    token: zenoh.LivelinessToken
    gid: bytes
    sent: int = 0


class Ros2Vehicle:
    """One node with all the publishers, each declared with its first message. `/tf_static` is kept for late joiners."""

    def __init__(self, endpoint: str, *, domain: int = 0) -> None:
        self._domain = domain
        self._session = session(
            **{
                "mode": "peer",
                "connect/endpoints": [endpoint],
                "listen/endpoints": [f"tcp/127.0.0.1:{free_port()}"],
                "timestamping/enabled": True,
            }
        )
        self._node = self._session.liveliness().declare_token(node_token(domain, self._zid, "vehicle"))
        self._publishers: dict[str, _Publisher] = {}
        self._infos: dict[str, bytes] = {}

    @property
    def _zid(self) -> str:
        return str(self._session.zid())

    def put(self, topic: str, kind: str, cdr: bytes, *, hashed: str | None = None, skips: int = 0) -> None:
        """Publish bytes as a message. hashed: of another type, skips: numbers that nobody gets."""
        found = self._publishers.get(topic)
        if found is None:
            found = self._publishers[topic] = self._declare(Endpoint(topic, kind, hashed or type_hash(kind)))
        found.sent += 1 + skips
        found.publisher.put(cdr, attachment=pack_mark(Mark(found.sent, time.time_ns(), found.gid)))

    def calibrate(self, rig: SensorRig, first: AnyMessage) -> None:
        """Publish `/tf_static`, once. A `CameraInfo` comes with each image."""
        for topic, kind, _, message in logged(rig, [first]):
            if kind == TRANSFORMS:
                self.put(topic, kind, to_cdr(kind, message))
            elif kind == INFO:
                self._infos[topic] = to_cdr(kind, message)

    def play(self, rig: SensorRig, messages: Iterable[AnyMessage], *, only: Container[str] | None = None) -> None:
        """Publish messages at their pace, stamped with the times at which they are published. only: these topics."""
        began_ns = time.time_ns()
        for topic, kind, log_ns, message in logged(rig, _restamped(messages, began_ns)):
            if kind in (TRANSFORMS, INFO) or (only is not None and topic not in only):
                continue
            time.sleep(max(0.0, (log_ns - time.time_ns()) / 1e9))
            self.put(topic, kind, to_cdr(kind, message))
            info = topic.replace("/image/compressed", "/camera_info")
            if info in self._infos:
                self.put(info, INFO, self._infos[info])

    def drive(self, rig: SensorRig, messages: Sequence[AnyMessage], *, only: Container[str] | None = None) -> "Drive":
        """Play messages over and over in a thread, until it is stopped."""
        return Drive(lambda: self.play(rig, messages, only=only))

    def leave(self, topic: str) -> None:
        """The publisher of a topic goes away."""
        gone = self._publishers.pop(topic)
        gone.token.undeclare()  # type: ignore[no-untyped-call]
        gone.publisher.undeclare()

    def close(self) -> None:
        self._session.close()  # type: ignore[no-untyped-call]

    def _declare(self, endpoint: Endpoint) -> _Publisher:
        key = endpoint.key(self._domain)
        publisher: Any = (
            zenoh.ext.declare_advanced_publisher(
                self._session, key, cache=zenoh.ext.CacheConfig(1), publisher_detection=True
            )
            if endpoint.topic.endswith("tf_static")
            else self._session.declare_publisher(key)
        )
        entity = len(self._publishers) + 1
        token = endpoint_token(self._domain, self._zid, "vehicle", endpoint, entity=entity, kind="MP")
        gid = hashlib.blake2b(f"{token}{time.time_ns()}".encode(), digest_size=GID_BYTES).digest()
        return _Publisher(publisher, self._session.liveliness().declare_token(token), gid)


def _restamped(messages: Iterable[AnyMessage], began_ns: int) -> Iterable[AnyMessage]:
    """The same, the first of which arrives at `began_ns`."""
    offset_ns: int | None = None
    for message in messages:
        offset_ns = began_ns - message.arrival_ns if offset_ns is None else offset_ns
        yield replace(message, capture_ns=message.capture_ns + offset_ns, arrival_ns=message.arrival_ns + offset_ns)


class Drive:
    """Does `lap` again and again until the block ends."""

    def __init__(self, lap: Callable[[], None]) -> None:
        self._lap = lap
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._lap()
