"""Live topics of ROS 2 nodes on `rmw_zenoh`, without a ROS installation: a live source.

What is heard in the first seconds says which topic is which sensor, where sensors sit and how their clocks run, as the
beginning of a bag does (`rosbag_interpreter.py`). None of it is yielded: a service begins with what comes now, not with
seconds that it would have to catch up with.
"""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

import zenoh

from perception.core.endless import Endless
from perception.core.errors import DriveError
from perception.core.messages import AnyMessage
from perception.core.rig import SensorRig
from perception.formats.ros_zenoh import Endpoint
from perception.formats.zenoh_session import close_session, open_client, reason
from perception.sources.ros2_graph import Graph
from perception.sources.ros2_inbox import Inbox, Numbers
from perception.sources.ros2_survey import Opening
from perception.sources.ros2_url import Ros2Url, read_url
from perception.sources.rosbag_interpreter import Interpreter, naming
from perception.sources.rosbag_storage import Record
from perception.sources.rosbag_topics import TopicsConfig, read_topics
from perception.sources.rosbag_types import SENSOR_TYPES

GONE_S: Final = 3.0
"""Without any publisher for so long, the vehicle's nodes have ended; a node that restarts is back sooner."""
TICK_S: Final = 0.2
TELL_S: Final = 10.0
"""Losses are logged at most so often."""

logger = logging.getLogger(__name__)


class Ros2Source(Endless):
    """What ROS 2 nodes publish from now on. address: what stands behind `ros2:` (`ros2_url.py`).

    Messages arrive when they are received. `messages` goes on waiting where some publishers vanish, and takes them
    again when they return; it ends when all have been gone for `GONE_S`, as another rig may come next.
    Raises UsageError for a wrong address or mapping, DriveError where no router is there, nobody publishes sensors
    within the wait, or calibration is missing.
    """

    def __init__(self, address: str) -> None:
        self._url = url = read_url(address)
        config = read_topics(url.topics) if url.topics is not None else TopicsConfig()
        self._stopped = threading.Event()
        self._inbox = Inbox()
        self._numbers = Numbers()
        self._is_reading = False
        self._told = (0, 0)
        self._tell_at_s = 0.0
        self._session = _connect(url)
        try:
            self._graph = Graph(self._session, url.domain, self._on_new)
            self._interpreter = self._survey(config)
        except BaseException:
            close_session(self._session)
            raise

    @property
    def drive_id(self) -> str:
        return f"ros2/{self._url.endpoint.partition('/')[2]}/{self._url.domain}"

    @property
    def rig(self) -> SensorRig:
        return self._interpreter.rig

    @property
    def notes(self) -> tuple[str, ...]:
        mapped = (f"topics are mapped by {self._url.topics}",) if self._url.topics is not None else ()
        return (*mapped, *self._interpreter.notes, f"received from {self._url}")

    @property
    def lost(self) -> int:
        """Messages that did not get here, by their numbers, or got here and were not taken in time."""
        return self._numbers.lost + self._inbox.dropped

    def messages(self) -> Iterator[AnyMessage]:
        """Begins with what is received from this call on."""
        self._inbox.clear()
        latest_ns = 0
        while not self._stopped.is_set():
            record = self._inbox.take(TICK_S)
            if record is None:
                if self._graph.deserted_s(self._interpreter.topics) > GONE_S:
                    logger.warning("%s: all publishers of its sensors have gone", self._url)
                    return
                continue
            # Clocks may be set back, and stamps run ahead a little; arrivals rise.
            logged_ns = max(latest_ns, self._interpreter.arrival_ns(record.log_ns))
            for message in sorted(self._interpreter.read(record, logged_ns), key=lambda found: found.arrival_ns):
                latest_ns = message.arrival_ns
                yield message
            self._tell_losses()

    def interrupt(self) -> None:
        self._stopped.set()
        self._inbox.close()

    def close(self) -> None:
        self.interrupt()
        close_session(self._session)

    def _survey(self, config: TopicsConfig) -> Interpreter:
        opening = Opening(self._graph, config)
        opening.listen(self._url.wait_s)
        if not any(topic.type_name in SENSOR_TYPES for topic in opening.topics.values()):
            raise DriveError(
                f"{self._url}: nobody published sensors within {self._url.wait_s:g} s; are the nodes running with "
                f"RMW_IMPLEMENTATION=rmw_zenoh_cpp and ROS_DOMAIN_ID={self._url.domain}? `?wait=SECONDS` waits longer"
            )
        with naming(str(self._url), self._url.topics):
            interpreter = Interpreter(opening, config)
        self._graph.keep({})
        self._is_reading = True
        for name in sorted(interpreter.topics):
            self._graph.subscribe(self._graph.endpoints[name], self._on_record)
        return interpreter

    def _on_record(self, record: Record, attachment: bytes) -> None:
        self._numbers.take(attachment)
        self._inbox.put(record)

    def _on_new(self, endpoint: Endpoint) -> None:
        if self._is_reading and endpoint.type_name in SENSOR_TYPES:
            logger.warning(
                "%s: %s (%s) appeared after the sensors were chosen and is not read; open the source again to have it",
                self._url, endpoint.topic, endpoint.type_name,
            )  # fmt: skip

    def _tell_losses(self) -> None:
        now_s = time.monotonic()
        losses = (self._numbers.lost, self._inbox.dropped)
        if losses != self._told and now_s >= self._tell_at_s:
            self._told, self._tell_at_s = losses, now_s + TELL_S
            logger.warning("%s: %d messages were lost on their way, %d dropped as too late, so far", self._url, *losses)


def _connect(url: Ros2Url) -> zenoh.Session:
    try:
        return open_client(url.endpoint)
    except zenoh.ZError as error:
        raise DriveError(
            f"{url}: nobody listens at {url.endpoint}; is `ros2 run rmw_zenoh_cpp rmw_zenohd` running there? "
            f"({reason(error)})"
        ) from None
