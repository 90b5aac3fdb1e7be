"""`zenoh:KEY`: the default queue. Peers on this machine find each other; no server is started.

Promises: ordered, lossless within `history` while the producer lives; publishing never waits for a consumer, and
consumers do not wait for one that is stalled. A consumer that falls further behind than the history loses the oldest
and counts them.

Each producer is an advanced publisher of `zenoh.ext`: it numbers its samples, keeps the last ones in a cache, answers
queries for them and shows that it is alive by a liveliness token. Samples are sent with congestion control `DROP`, and
dropped at once where a consumer's line is full; what a consumer misses it fetches from the cache, a few at a time
(`zenoh_feed`).

By default nothing leaves loopback. `QueueConfig.security` makes both sides show certificates, or a login, or both (a
login alone proves only who comes, and hides nothing from those who listen in). Other networks, and who may do what, are
a matter of `QueueConfig.zenoh_config`, a file of Zenoh's own: a producer listens at an endpoint, with scouting switched
off and `access_control` where not all users are equal; its consumers connect there and listen nowhere (`listen:
{endpoints: []}`), so that they do not talk with each other behind its back. `zenoh_refusals` tells who refuses whom.
"""

import time
from typing import cast

import zenoh
import zenoh.ext

from perception.config.schema import QueueConfig
from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem
from perception.formats.zenoh_session import close_session, direct
from perception.queues.codec import encode
from perception.queues.subscription import Reading, ResultSubscription
from perception.queues.zenoh_feed import ZenohFeed
from perception.queues.zenoh_refusals import RefusalWatch
from perception.queues.zenoh_session import checked_key, open_session

MIN_CACHED = 64
LINGER_STEP_S = 0.02


class ZenohQueue:
    """A producer on `zenoh:KEY`.

    Every sample carries `config.history` as its attachment, so that late consumers know where to begin.
    Raises UsageError for a key that is none, QueueError where Zenoh cannot start.
    """

    def __init__(self, key: str, config: QueueConfig) -> None:
        self._key = checked_key(key)
        if "*" in self._key:
            raise UsageError(f"a producer needs one key, not the pattern {key!r}")
        self._history = config.history
        self._linger_s = config.linger_s
        self._was_attended = False
        self._has_published = False
        self._closed = False
        RefusalWatch(config).check_endpoints()
        self._session = open_session(config)
        self._publisher = zenoh.ext.declare_advanced_publisher(
            self._session,
            self._key,
            congestion_control=zenoh.CongestionControl.DROP,
            cache=zenoh.ext.CacheConfig(max(config.history, MIN_CACHED)),
            sample_miss_detection=zenoh.ext.MissDetectionConfig(heartbeat=None, sporadic_heartbeat=None),
            publisher_detection=True,
        )
        # An advanced publisher cannot tell whether somebody listens; a plain one on the same key can.
        self._watch = self._session.declare_publisher(self._key)
        self._watch.declare_matching_listener(direct(self._on_matching))

    def publish(self, item: QueueItem) -> None:
        """Raises QueueError where the item cannot be encoded, or after `close`."""
        self.send(encode(item))

    def send(self, payload: bytes) -> None:
        """Publish bytes as they are. Raises QueueError after `close`."""
        if self._closed:
            raise QueueError("the queue was closed; nothing more can be published")
        self._has_published = True
        try:
            self._publisher.put(payload, attachment=str(self._history))
        except zenoh.ZError as error:
            raise QueueError(f"zenoh:{self._key}: cannot publish: {error}") from error

    def take_losses(self) -> int:
        """Always 0: the cache takes everything."""
        return 0

    def has_consumer(self) -> bool:
        if self._closed:
            return False
        # Zenoh's stub says bool.
        status = cast(zenoh.MatchingStatus, self._watch.matching_status)
        self._on_matching(status)
        return status.matching

    def close(self) -> None:
        """Stay for `linger_s`, but no longer than until the last consumer has left; then go.

        Consumers leave when they have taken the end of the run. If none was ever there, the whole time is given to
        one that is just starting. Without anything published there is nothing to wait for.
        """
        if self._closed:
            return
        deadline = time.monotonic() + (self._linger_s if self._has_published else 0.0)
        while time.monotonic() < deadline and (self.has_consumer() or not self._was_attended):
            time.sleep(LINGER_STEP_S)
        self._closed = True
        close_session(self._session)

    def _on_matching(self, status: zenoh.MatchingStatus) -> None:
        self._was_attended = self._was_attended or status.matching


def open_queue(address: str, config: QueueConfig) -> ZenohQueue:
    return ZenohQueue(address, config)


def open_feed(address: str, reading: Reading, config: QueueConfig) -> ZenohFeed:
    """What arrives on a key, as bytes. Raises UsageError and QueueError as a producer does."""
    key = checked_key(address)
    watch = RefusalWatch(config)
    watch.check_endpoints()
    capacity = max(config.history, MIN_CACHED)
    return ZenohFeed(open_session(config), key, is_late=reading.start == "latest", capacity=capacity, watch=watch)


def subscribe(address: str, reading: Reading, config: QueueConfig) -> ResultSubscription:
    reading.refuse_group("zenoh")
    return ResultSubscription(open_feed(address, reading, config), reading)
