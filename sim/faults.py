"""Faults by configuration: what goes wrong between sensors and service, seeded, applied to any stream of messages."""

import heapq
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from perception.config.schema import Settings
from perception.core.errors import ConfigError
from perception.core.messages import (
    EGO_SENSOR,
    ROUTE_SENSOR,
    AnyMessage,
    CameraFrame,
    LidarSweep,
    RadarScan,
    Unreadable,
)
from perception.core.rig import Modality, SensorRig
from sim.fault_effects import Remapper, black_out, block_camera, block_sector, blur, move_points, overexpose, thin

Share = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=-360, le=360)]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]


class Fault(Settings):
    """What all faults share: whom they strike, when, and each message's chance to be struck."""

    sensors: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the rig, `ego` or `route`."""
    start_s: Annotated[float, Field(ge=0)] = 0.0
    """After the start of the drive, by capture time."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """None: until the end."""
    probability: Share = 1.0


class Drop(Fault):
    type: Literal["drop"]


class Delay(Fault):
    """Messages arrive later, by a fixed time and an exponential one on top."""

    type: Literal["delay"]
    delay_ms: Milliseconds
    jitter_ms: Milliseconds = 0.0


class Freeze(Fault):
    """The sensor repeats what it last saw, with new stamps."""

    type: Literal["freeze"]


class Duplicate(Fault):
    """The same message comes a second time."""

    type: Literal["duplicate"]
    after_ms: Milliseconds = 5.0


class Reorder(Fault):
    """Messages overtake each other: each is held back by anything up to `within_ms`."""

    type: Literal["reorder"]
    within_ms: Milliseconds


class Clock(Fault):
    """The sensor's clock is wrong: capture times shift, arrivals do not."""

    type: Literal["clock"]
    offset_ms: Annotated[float, Field(ge=-60_000, le=60_000)] = 0.0
    drift_ppm: Annotated[float, Field(ge=-100_000, le=100_000)] = 0.0


class Blackout(Fault):
    """Messages keep coming, but there is nothing in them: a black image, no points."""

    type: Literal["blackout"]


class Blockage(Fault):
    """Dirt: a region of a camera's image (shares of its sides), a sector of a lidar or radar (its own azimuth)."""

    type: Literal["blockage"]
    region: tuple[Share, Share, Share, Share] | None = None
    """Left, top, right, bottom."""
    sector_deg: tuple[Degrees, Degrees] | None = None
    """From, to, counter-clockwise."""
    opacity: Share = 1.0

    @model_validator(mode="after")
    def _check(self) -> "Blockage":
        if (self.region is None) == (self.sector_deg is None):
            raise ValueError("blockage takes either region (cameras) or sector_deg (lidars and radars)")
        if self.region is not None and not (self.region[0] < self.region[2] and self.region[1] < self.region[3]):
            raise ValueError(f"region {self.region} is left, top, right, bottom: left < right and top < bottom")
        return self


class Miscalibration(Fault):
    """The sensor is mounted other than the rig says: what it reports is turned (roll, pitch, yaw) and moved.

    A camera's image can only be turned: parallax would need another picture.
    """

    type: Literal["miscalibration"]
    rotation_deg: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)
    translation_m: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Truncate(Fault):
    """The payload ends early: a camera's bytes are cut, a point cloud cannot be read."""

    type: Literal["truncate"]
    keep_share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Overexposure(Fault):
    """A camera's exposure is stuck too long: everything bright is white."""

    type: Literal["overexposure"]
    gain: Annotated[float, Field(ge=1, le=1000)] = 20.0


class Blur(Fault):
    """A camera out of focus, or water on its lens."""

    type: Literal["blur"]
    sigma_share: Annotated[float, Field(gt=0, le=0.1)] = 0.006
    """Of the image's width."""


class Thin(Fault):
    """A lidar or radar that lost power or beams: a share of its points is left, at random."""

    type: Literal["thin"]
    keep_share: Share = 0.25


AnyFault = Annotated[
    Drop
    | Delay
    | Freeze
    | Duplicate
    | Reorder
    | Clock
    | Blackout
    | Blockage
    | Miscalibration
    | Truncate
    | Overexposure
    | Blur
    | Thin,
    Field(discriminator="type"),
]


_SPOILING = (Blackout, Blockage, Miscalibration, Truncate, Overexposure, Blur, Thin)


class FaultPlan(Settings):
    faults: tuple[AnyFault, ...] = ()


@dataclass(order=True, slots=True)
class _Waiting:
    arrival_ns: int
    index: int
    message: Any


class FaultInjector:
    """Applies a plan to messages; the same plan, seed and messages give the same faults.

    Raises ConfigError on a sensor that the rig does not have, and on a fault that its kind of sensor cannot have.
    """

    def __init__(self, plan: FaultPlan, rig: SensorRig, *, start_ns: int, seed: int) -> None:
        for number, fault in enumerate(plan.faults):
            for sensor in fault.sensors:
                _check(number, fault, sensor, rig)
        self._plan = plan
        self._start_ns = start_ns
        self._seed = seed
        self._remap = Remapper(rig)
        self._frozen: dict[tuple[int, str], Any] = {}

    def apply(self, messages: Iterable[AnyMessage]) -> Iterator[AnyMessage]:
        """The stream with its faults, again in arrival order; holds back no longer than the faults' own delays."""
        waiting: list[_Waiting] = []
        count = 0
        for message in messages:
            while waiting and waiting[0].arrival_ns <= message.arrival_ns:
                yield heapq.heappop(waiting).message
            for struck in self.strike(message):
                heapq.heappush(waiting, _Waiting(struck.arrival_ns, count, struck))
                count += 1
        while waiting:
            yield heapq.heappop(waiting).message

    def strike(self, message: AnyMessage) -> list[AnyMessage]:
        """What becomes of one message: none, itself or several, in no order. Faults strike in the order of the plan."""
        present = [message]
        since_s = (message.capture_ns - self._start_ns) / 1e9
        for number, fault in enumerate(self._plan.faults):
            ends_s = np.inf if fault.duration_s is None else fault.start_s + fault.duration_s
            if message.sensor not in fault.sensors or not fault.start_s <= since_s < ends_s:
                self._frozen.pop((number, message.sensor), None)
                continue
            rng = np.random.default_rng(
                [self._seed, number, zlib.crc32(message.sensor.encode()), abs(message.capture_ns)]
            )
            if rng.random() < fault.probability:
                present = [after for before in present for after in self._strike(number, fault, before, rng)]
        return present

    def _strike(self, number: int, fault: Fault, message: Any, rng: np.random.Generator) -> list[Any]:
        match fault:
            case Drop():
                return []
            case Delay():
                late_ms = fault.delay_ms + float(rng.exponential(1.0)) * fault.jitter_ms
                return [replace(message, arrival_ns=message.arrival_ns + round(late_ms * 1e6))]
            case Reorder():
                return [replace(message, arrival_ns=message.arrival_ns + round(rng.uniform(0, fault.within_ms) * 1e6))]
            case Duplicate():
                return [message, replace(message, arrival_ns=message.arrival_ns + round(fault.after_ms * 1e6))]
            case Clock():
                since = message.capture_ns - self._start_ns - fault.start_s * 1e9
                shift = round(fault.offset_ms * 1e6 + fault.drift_ppm * 1e-6 * since)
                return [replace(message, capture_ns=message.capture_ns + shift)]
            case Freeze():
                held = self._frozen.setdefault((number, message.sensor), message)
                return [replace(held, capture_ns=message.capture_ns, arrival_ns=message.arrival_ns)]
        return [self._spoil(fault, message, rng)]

    def _spoil(self, fault: Fault, message: Any, rng: np.random.Generator) -> Any:
        """Faults of the payload; a message that is already unreadable stays so."""
        if isinstance(message, Unreadable):
            return message
        match fault:
            case Blackout():
                return black_out(message)
            case Blockage(region=region, sector_deg=sector) if isinstance(message, CameraFrame) and region:
                return block_camera(message, region, fault.opacity)
            case Blockage(sector_deg=sector) if sector is not None:
                return block_sector(message, np.radians(sector), fault.opacity, self._seed)
            case Miscalibration() if isinstance(message, CameraFrame):
                return self._remap.turn(message, fault.rotation_deg)
            case Miscalibration():
                return move_points(message, fault.rotation_deg, fault.translation_m)
            case Truncate():
                return _truncate(message, fault.keep_share)
            case Overexposure():
                return overexpose(message, fault.gain)
            case Blur():
                return blur(message, fault.sigma_share)
            case Thin():
                return thin(message, fault.keep_share, rng)
        return message


def _truncate(message: CameraFrame | LidarSweep | RadarScan, keep_share: float) -> AnyMessage:
    if isinstance(message, CameraFrame):
        return replace(message, data=message.data[: int(len(message.data) * keep_share)])
    n = len(message.points_m)
    return Unreadable(
        sensor=message.sensor,
        capture_ns=message.capture_ns,
        arrival_ns=message.arrival_ns,
        error=f"{message.sensor}: payload ends after {int(n * keep_share)} of {n} points",
    )


def _check(number: int, fault: Fault, sensor: str, rig: SensorRig) -> None:
    where = f"faults.{number}.sensors"
    if sensor in (EGO_SENSOR, ROUTE_SENSOR):
        if isinstance(fault, _SPOILING):
            raise ConfigError(f"{where}: {sensor} has no payload to spoil; name sensors of the rig")
        return
    if sensor not in rig:
        known = ", ".join([*(s.name for s in rig.sensors), EGO_SENSOR, ROUTE_SENSOR])
        raise ConfigError(f"{where}: no sensor {sensor!r}; known: {known}")
    is_camera = rig[sensor].modality is Modality.CAMERA
    if isinstance(fault, Overexposure | Blur) and not is_camera:
        raise ConfigError(f"{where}: {sensor} is no camera; {fault.type} is a fault of images")
    if isinstance(fault, Thin) and is_camera:
        raise ConfigError(f"{where}: {sensor} has no points; thin is a fault of lidars and radars")
    if isinstance(fault, Blockage) and is_camera != (fault.region is not None):
        raise ConfigError(f"{where}: {sensor} takes {'region' if is_camera else 'sector_deg'}")
    if isinstance(fault, Miscalibration) and is_camera and any(fault.translation_m):
        raise ConfigError(f"faults.{number}.translation_m: the camera {sensor} can only be turned, not moved")
