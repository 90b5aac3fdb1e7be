"""The topics of a ROS 2 domain, as `rmw_zenoh` shows them, and subscriptions to them.

Publishers are known by their liveliness tokens. A subscription shows a token of its own, as one of ROS would: it is
seen by `ros2 topic info`, and publishers that have other ways to send as well know that somebody takes messages as
they are.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import zenoh
import zenoh.ext

from perception.formats.ros_zenoh import (
    UNKNOWN_HASH,
    Endpoint,
    all_publishers,
    endpoint_token,
    node_token,
    read_publisher,
)
from perception.formats.zenoh_session import direct
from perception.sources.rosbag_storage import Record
from perception.sources.rosbag_types import CAMERA_INFO, TRANSFORMS, type_hash

NODE = "perception"
KEPT_TYPES = (TRANSFORMS, CAMERA_INFO)
"""Types that are often told once, for late joiners to ask for."""

OnRecord = Callable[[Record, bytes], None]
"""Called by Zenoh's thread, with what was attached."""


@dataclass(slots=True)
class _Subscription:
    subscriber: "zenoh.Subscriber[None] | zenoh.ext.AdvancedSubscriber[None]"
    token: zenoh.LivelinessToken


@dataclass(slots=True)
class _Publishers:
    """Those of one topic. gone_s: when the last one went, None while there are some."""

    endpoint: Endpoint
    tokens: set[str] = field(default_factory=set)
    gone_s: float | None = None


class Graph:
    """Watches the publishers of `domain`. changed: told of whatever comes and goes.

    on_new: called by Zenoh's thread with a topic that nobody published before. `session` remains the caller's.
    """

    def __init__(self, session: zenoh.Session, domain: int, on_new: Callable[[Endpoint], None]) -> None:
        self._session = session
        self._domain = domain
        self._on_new = on_new
        self.changed = threading.Condition()
        self._publishers: dict[str, _Publishers] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._entities = 0
        liveliness = session.liveliness()
        self._node = liveliness.declare_token(node_token(domain, str(session.zid()), NODE))
        self._watch = liveliness.declare_subscriber(all_publishers(domain), direct(self._on_token), history=True)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """What was published since the begin, by topic: as it was announced first."""
        with self.changed:
            return {name: known.endpoint for name, known in self._publishers.items()}

    def subscribe(self, endpoint: Endpoint, on_record: OnRecord) -> None:
        """Take the messages of a topic from now on, and those that its publishers keep for late joiners."""
        key = endpoint.key(self._domain, any_hash=True)
        hashes = (type_hash(endpoint.type_name), UNKNOWN_HASH)

        def on_sample(sample: zenoh.Sample) -> None:
            arrived_ns = time.time_ns()
            attachment = bytes(sample.attachment) if sample.attachment is not None else b""
            found = str(sample.key_expr).rpartition("/")[2]
            data, error = bytes(sample.payload), None
            if found not in hashes:
                data, error = b"", f"{endpoint.topic}: its publisher has another {endpoint.type_name} ({found})"
            on_record(Record(endpoint.topic, arrived_ns, data, error), attachment)

        self._entities += 1
        token = endpoint_token(self._domain, str(self._session.zid()), NODE, endpoint, entity=self._entities, kind="MS")
        subscriber: zenoh.Subscriber[None] | zenoh.ext.AdvancedSubscriber[None]
        if endpoint.type_name in KEPT_TYPES:
            history = zenoh.ext.HistoryConfig(detect_late_publishers=True)
            subscriber = zenoh.ext.declare_advanced_subscriber(self._session, key, direct(on_sample), history=history)
        else:
            subscriber = self._session.declare_subscriber(key, direct(on_sample))
        self._subscriptions[endpoint.topic] = _Subscription(subscriber, self._session.liveliness().declare_token(token))

    def keep(self, topics: Collection[str]) -> None:
        """End the subscriptions of all other topics."""
        for name in [name for name in self._subscriptions if name not in topics]:
            subscription = self._subscriptions.pop(name)
            subscription.subscriber.undeclare()  # type: ignore[no-untyped-call]
            subscription.token.undeclare()  # type: ignore[no-untyped-call]

    def deserted_s(self, topics: Collection[str]) -> float:
        """For how long none of `topics` has had a publisher; 0 while one has."""
        with self.changed:
            gone = [self._publishers[name].gone_s for name in topics if name in self._publishers]
        ends_s = [gone_s for gone_s in gone if gone_s is not None]
        return time.monotonic() - max(ends_s) if ends_s and len(ends_s) == len(gone) else 0.0

    def _on_token(self, sample: zenoh.Sample) -> None:
        token = str(sample.key_expr)
        endpoint = read_publisher(token)
        if endpoint is None:
            return
        with self.changed:
            is_new = endpoint.topic not in self._publishers
            known = self._publishers.setdefault(endpoint.topic, _Publishers(endpoint))
            if sample.kind == zenoh.SampleKind.PUT:
                known.tokens.add(token)
                known.gone_s = None
            else:
                known.tokens.discard(token)
                known.gone_s = None if known.tokens else time.monotonic()
            self.changed.notify_all()
        if is_new:
            self._on_new(endpoint)
