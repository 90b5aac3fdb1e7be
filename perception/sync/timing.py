"""What the synchronizer expects of each sensor of a rig, in nanoseconds, and who may open a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass

from perception.config.schema import SensorSync, SyncConfig
from perception.core.errors import ConfigError
from perception.core.rig import Modality, SensorRig

MS = 1_000_000

_OPENING_ORDER = (Modality.LIDAR, Modality.CAMERA, Modality.RADAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorTiming:
    """One sensor's part in a bundle.

    offset_ns: signed, its expected capture from the reference time. tolerance_ns: how far from that a capture may be.
    silence_ns: after so long without a usable message, on the arrival clock, nobody waits for it.
    """

    name: str
    offset_ns: int
    tolerance_ns: int
    period_ns: int
    silence_ns: int

    def expected_ns(self, reference_ns: int) -> int:
        return reference_ns + self.offset_ns

    def accepts(self, capture_ns: int, reference_ns: int) -> bool:
        return abs(capture_ns - self.expected_ns(reference_ns)) <= self.tolerance_ns


def opening_order(rig: SensorRig, config: SyncConfig) -> tuple[str, ...]:
    """Sensors that may open a bundle, first choice first. Raises ConfigError on a name that the rig has not."""
    _check_names(rig, config.reference_order, "sync.reference_order")
    if config.reference_order:
        return config.reference_order
    return tuple(sensor.name for modality in _OPENING_ORDER for sensor in rig.of(modality))


def sensor_timings(rig: SensorRig, config: SyncConfig) -> Mapping[str, SensorTiming]:
    """Timing of every sensor, in rig order. Raises ConfigError on a name that the rig has not.

    Offsets are counted from the first choice of reference, whose own is therefore 0: its captures are reference times.
    A slow sensor is granted two of its periods before it counts as silent.
    """
    _check_names(rig, tuple(config.sensors), "sync.sensors")
    settings = {sensor.name: config.sensors.get(sensor.name, SensorSync()) for sensor in rig.sensors}
    offsets = {
        sensor.name: sensor.offset_ns
        if (offset_ms := settings[sensor.name].offset_ms) is None
        else round(offset_ms * MS)
        for sensor in rig.sensors
    }
    origin = offsets[opening_order(rig, config)[0]]
    timings = {}
    for sensor in rig.sensors:
        tolerance_ms = settings[sensor.name].tolerance_ms
        timings[sensor.name] = SensorTiming(
            name=sensor.name,
            offset_ns=offsets[sensor.name] - origin,
            tolerance_ns=round((config.tolerance_ms if tolerance_ms is None else tolerance_ms) * MS),
            period_ns=sensor.period_ns,
            silence_ns=max(round(config.silence_ms * MS), 2 * sensor.period_ns, 1),
        )
    return timings


def _check_names(rig: SensorRig, names: tuple[str, ...], field: str) -> None:
    for name in names:
        if name not in rig:
            known = ", ".join(sensor.name for sensor in rig.sensors)
            raise ConfigError(f"{field} names {name!r}, which the rig has not; its sensors are {known}")
