"""Whether each sensor is alive, readable and on time, from its messages alone."""

from collections import deque

from perception.core.bundle import SensorBundle
from perception.core.messages import Message, Unreadable
from perception.core.results import SensorStatus
from perception.core.rig import Sensor, SensorRig

RATE_WINDOW = 20
"""Messages over which the rate is measured."""
ALIVE_PERIODS = 5.0
"""A sensor unheard for so many nominal periods is not alive."""
MIN_ALIVE_NS = 500_000_000


class SensorHealth:
    """Watches the messages of a rig, on the arrival clock."""

    def __init__(self, rig: SensorRig) -> None:
        self._sensors = {sensor.name: _SensorWatch(sensor) for sensor in rig.sensors}
        self._order = tuple(sensor.name for sensor in rig.sensors)

    def observe(self, message: Message) -> None:
        if (watch := self._sensors.get(message.sensor)) is not None:
            watch.observe(message)

    def status(self, bundle: SensorBundle) -> tuple[SensorStatus, ...]:
        """The state of every sensor as `bundle` closed, in rig order."""
        return tuple(self._sensors[name].status(bundle) for name in self._order)


class _SensorWatch:
    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        self._captures: deque[int] = deque(maxlen=RATE_WINDOW)
        self._last_arrival_ns: int | None = None
        self._alive_ns = max(MIN_ALIVE_NS, round(ALIVE_PERIODS * sensor.period_ns))
        self.is_valid = True

    def observe(self, message: Message) -> None:
        self._last_arrival_ns = max(message.arrival_ns, self._last_arrival_ns or message.arrival_ns)
        self.is_valid = not isinstance(message, Unreadable)
        if self._captures and message.capture_ns <= self._captures[-1]:
            if message.capture_ns == self._captures[-1]:
                return
            self._captures.clear()
        self._captures.append(message.capture_ns)

    def status(self, bundle: SensorBundle) -> SensorStatus:
        name = self._sensor.name
        present = name in bundle.hits
        heard = self._last_arrival_ns
        return SensorStatus(
            name=name,
            modality=self._sensor.modality,
            present=present,
            age_ns=bundle.age_ns(name) if present else None,
            alive=heard is not None and bundle.closed_ns - heard <= self._alive_ns,
            valid=heard is not None and self.is_valid,
            frequency_hz=self._frequency_hz(),
        )

    def _frequency_hz(self) -> float:
        if len(self._captures) < 2:
            return 0.0
        return round((len(self._captures) - 1) * 1e9 / (self._captures[-1] - self._captures[0]), 3)
