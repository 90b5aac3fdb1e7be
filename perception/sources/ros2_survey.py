"""The first seconds of live topics, kept as a storage that can be surveyed as a bag is."""

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from perception.formats.ros_zenoh import UNKNOWN_HASH, Endpoint
from perception.sources.ros2_graph import Graph
from perception.sources.rosbag_storage import Record, Topic
from perception.sources.rosbag_survey import SAMPLES
from perception.sources.rosbag_topics import TopicsConfig
from perception.sources.rosbag_types import CAMERA_INFO, SENSOR_TYPES, TRANSFORMS, TYPES

SETTLE_S: Final = 1.0
"""Topics that are announced so long after the last one are not waited for: nodes of one launch come together."""
KEPT: Final = SAMPLES
KEPT_TRANSFORMS: Final = 2000
"""Records of a topic that are kept: no more than the survey looks at; of transforms, each may tell of another frame."""


class Opening:
    """What is heard before a rig can be made. A `Storage`, once `listen` is done.

    config: a mapping says which sensors are waited for.
    """

    def __init__(self, graph: Graph, config: TopicsConfig) -> None:
        self._graph = graph
        self._config = config
        self._mapped = {
            name for sensor in config.sensors.values() for name in (sensor.topic, sensor.info) if name is not None
        }
        self._has_mounts = bool(config.sensors) and all(sensor.mount for sensor in config.sensors.values())
        self._topics: dict[str, Topic] = {}
        self._records: dict[str, list[Record]] = {}

    @property
    def topics(self) -> Mapping[str, Topic]:
        return self._topics

    @property
    def span_ns(self) -> tuple[int, int] | None:
        times = [record.log_ns for records in self._records.values() for record in records]
        return (min(times), max(times)) if times else None

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def records(self, topics: Collection[str]) -> Iterator[Record]:
        found = [record for name in topics for record in self._records.get(name, [])]
        yield from sorted(found, key=lambda record: record.log_ns)

    def listen(self, wait_s: float) -> None:
        """Subscribe to whatever is announced, until all of it was heard often enough, or `wait_s` are over."""
        now_s = time.monotonic()
        end_s, settled_s = now_s + wait_s, now_s + SETTLE_S
        while now_s < end_s and not (now_s >= settled_s and self._is_enough()):
            for name, endpoint in self._graph.endpoints.items():
                if name not in self._topics and self._add(endpoint):
                    settled_s = time.monotonic() + SETTLE_S
            with self._graph.changed:
                self._graph.changed.wait(min(0.1, end_s - now_s))
            now_s = time.monotonic()

    def put(self, record: Record) -> None:
        """Called by Zenoh's thread."""
        with self._graph.changed:
            kept = self._records[record.topic]
            if len(kept) < (KEPT_TRANSFORMS if self._topics[record.topic].type_name == TRANSFORMS else KEPT):
                kept.append(record)
            self._graph.changed.notify_all()

    def _add(self, endpoint: Endpoint) -> bool:
        """Whether it is listened to."""
        digest = "" if endpoint.type_hash == UNKNOWN_HASH else endpoint.type_hash
        self._topics[endpoint.topic] = Topic(name=endpoint.topic, type_name=endpoint.type_name, digest=digest)
        is_left_out = self._mapped and endpoint.type_name in SENSOR_TYPES and endpoint.topic not in self._mapped
        if endpoint.type_name not in TYPES or is_left_out:
            return False
        self._records[endpoint.topic] = []
        self._graph.subscribe(endpoint, lambda record, _: self.put(record))
        return True

    def _is_enough(self) -> bool:
        with self._graph.changed:
            heard = {name: len(records) for name, records in self._records.items()}
        types = {name: self._topics[name].type_name for name in heard}
        has_places = self._has_mounts or any(heard[name] for name, kind in types.items() if kind == TRANSFORMS)
        has_sensors = any(kind in SENSOR_TYPES for kind in types.values())
        is_all = all(count >= _needed(name, types[name]) for name, count in heard.items())
        return has_places and has_sensors and is_all and self._mapped <= set(self._topics)


def _needed(topic: str, type_name: str) -> int:
    return 1 if type_name == CAMERA_INFO or topic.rstrip("/").endswith("tf_static") else SAMPLES
