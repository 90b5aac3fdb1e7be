"""Topics of ROS to a drive: what is looked at first makes the rig, and every record after it becomes messages.

Bags and live topics (`ros2.py`) are read alike from here on; only where their records come from differs.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from perception.core.errors import DriveError, PayloadError, UsageError
from perception.core.messages import EGO_SENSOR, AnyMessage, Unreadable
from perception.core.rig import SensorRig
from perception.sources.rosbag_motion import ego_state, stamped_poses
from perception.sources.rosbag_plan import Planner, plan_sensors, sensor_topics
from perception.sources.rosbag_readers import read_message
from perception.sources.rosbag_storage import Record, Storage
from perception.sources.rosbag_survey import compare_clocks, survey
from perception.sources.rosbag_topics import NONE, TopicsConfig, find_info, guess_sensors, unread
from perception.sources.rosbag_types import COMPRESSED_IMAGE, IMAGE, ODOMETRY, SENSOR_TYPES, decode, stamp_ns

MAX_AHEAD_NS = 1_000_000_000
"""A message stamped further than this after it was logged has a broken stamp."""

_SHOWN = 12


class Interpreter:
    """Reads topics as the sensors of a rig.

    storage: the topics, and enough of their records for a survey. config: which topic is which sensor; without sensors
    they are guessed. Raises DriveError where calibration is missing or broken, UsageError where `config` does not fit.
    """

    def __init__(self, storage: Storage, config: TopicsConfig) -> None:
        guessed = not config.sensors
        self._topics = topics = storage.topics
        sensors = guess_sensors(topics) if guessed else sensor_topics(config, topics)
        wanted = {name for sensor in sensors.values() for name in (sensor.topic, sensor.info) if name is not None}
        if config.poses != NONE:
            wanted |= {name for name, topic in topics.items() if topic.type_name == ODOMETRY}
        found = survey(storage, wanted)
        planner = Planner(config, topics, found)
        plans = plan_sensors(planner, sensors, found.samples)
        self._motion = planner.motion()
        self._plans = {plan.topic.name: plan for plan in plans}
        self.topics = frozenset(self._plans) | ({self._motion.topic} if self._motion is not None else set())
        """Those whose records are read."""
        self._clocks = compare_clocks({name: found.samples[name] for name in self.topics})
        try:
            self.rig = SensorRig(sensors=tuple(plan.sensor for plan in plans))
        except ValueError as error:
            raise UsageError(f"{error}; choose sensors with a topics.yaml") from error
        guesses = [f"guessed: {plan.sensor.name} is {plan.topic.name} ({plan.topic.type_name})" for plan in plans]
        self.notes = (
            *(guesses if guessed else ()),
            *planner.notes,
            *self._clocks.notes,
            *self._leftover_notes(),
        )

    def arrival_ns(self, log_ns: int) -> int:
        """A log time on the clock of the stamps."""
        return log_ns - self._clocks.shift_ns

    def read(self, record: Record, logged_ns: int) -> Iterator[AnyMessage]:
        """The messages in a record of `topics`. logged_ns: when it was logged, on the clock of the stamps.

        They arrive then, or later where their stamps say so. What cannot be read comes as `Unreadable`.
        """
        plan = self._plans.get(record.topic)
        name = plan.sensor.name if plan is not None else EGO_SENSOR
        try:
            decoded = decode(self._topics[record.topic], record)
            if plan is not None:
                capture_ns, arrival_ns, is_stamped = self._times(record.topic, decoded.header, logged_ns)
                yield read_message(plan, decoded, capture_ns, arrival_ns, is_stamped=is_stamped)
            elif self._motion is not None:
                for stamped in stamped_poses(self._motion, decoded):
                    capture_ns, arrival_ns, _ = self._times(record.topic, stamped.header, logged_ns)
                    yield ego_state(self._motion, stamped, capture_ns, arrival_ns)
        except PayloadError as error:
            yield Unreadable(sensor=name, capture_ns=logged_ns, arrival_ns=logged_ns, error=str(error))

    def _times(self, topic: str, header: object, logged_ns: int) -> tuple[int, int, bool]:
        """Capture, arrival, and whether the first is a stamp. Raises PayloadError where the stamp is in the future."""
        stamp = stamp_ns(header)
        if stamp == 0 or topic in self._clocks.unstamped:
            return logged_ns, logged_ns, False
        if stamp > logged_ns + MAX_AHEAD_NS:
            raise PayloadError(f"{topic}: stamped {(stamp - logged_ns) / 1e9:.3g} s after it was logged")
        return stamp, max(stamp, logged_ns), True

    def _leftover_notes(self) -> list[str]:
        topics = self._topics
        used = {*self.topics, *(name for name, topic in topics.items() if topic.type_name not in SENSOR_TYPES)}
        blind = [name for name in unread(topics, used) if topics[name].type_name in (COMPRESSED_IMAGE, IMAGE)]
        notes = [
            f"not read: {name} (no CameraInfo beside it; give `info` or `camera` in a topics.yaml)"
            for name in blind
            if find_info(name, topics) is None
        ]
        others = [name for name in unread(topics, used) if name not in blind or find_info(name, topics) is not None]
        if others:
            notes.append(f"not read: {', '.join(others[:_SHOWN])}{', ...' if len(others) > _SHOWN else ''}")
        return notes


@contextlib.contextmanager
def naming(place: Path | str, mapping: Path | None) -> Iterator[None]:
    """Errors name the file that is to be changed: the mapping where it does not fit, else `place`."""
    try:
        yield
    except (DriveError, UsageError) as error:
        path = mapping if isinstance(error, UsageError) and mapping is not None else place
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
