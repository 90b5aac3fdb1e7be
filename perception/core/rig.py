"""The sensor rig of a drive: which sensors there are, where they sit, how they see."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, check_mount

Float = NDArray[np.float64]

MAX_CAMERAS = 12


class Modality(StrEnum):
    CAMERA = "camera"
    LIDAR = "lidar"
    RADAR = "radar"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensor:
    """One sensor of a rig.

    ego_SE3_sensor: (4, 4) float64 mount. frequency_hz: nominal rate. offset_ns: signed time of its capture from the
    reference's, where the format has a fixed one. camera: intrinsics, for cameras only.
    """

    name: str
    modality: Modality
    ego_SE3_sensor: Float
    frequency_hz: float
    offset_ns: int = 0
    camera: CameraModel | None = None

    def __post_init__(self) -> None:
        try:
            check_mount(self.ego_SE3_sensor)
        except ValueError as error:
            raise ValueError(f"sensor {self.name}: {error}") from None
        if (self.camera is not None) != (self.modality is Modality.CAMERA):
            raise ValueError(f"sensor {self.name}: a camera needs intrinsics, and only a camera has them")
        if not self.frequency_hz > 0:
            raise ValueError(f"sensor {self.name}: frequency_hz must be positive, got {self.frequency_hz}")

    @property
    def period_ns(self) -> int:
        return round(1e9 / self.frequency_hz)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SensorRig:
    """All sensors of a vehicle, in a fixed order. Raises ValueError on doubled names or none at all."""

    sensors: tuple[Sensor, ...]

    def __post_init__(self) -> None:
        names = [sensor.name for sensor in self.sensors]
        if not names:
            raise ValueError("a rig needs at least one sensor")
        if len(set(names)) != len(names):
            raise ValueError(f"sensor names must differ, got {names}")
        if len(self.of(Modality.CAMERA)) > MAX_CAMERAS:
            raise ValueError(f"at most {MAX_CAMERAS} cameras are supported, got {len(self.of(Modality.CAMERA))}")

    def of(self, modality: Modality) -> tuple[Sensor, ...]:
        return tuple(sensor for sensor in self.sensors if sensor.modality is modality)

    def __contains__(self, name: object) -> bool:
        return any(sensor.name == name for sensor in self.sensors)

    def __getitem__(self, name: str) -> Sensor:
        for sensor in self.sensors:
            if sensor.name == name:
                return sensor
        raise KeyError(f"no sensor {name!r} in the rig; it has {', '.join(s.name for s in self.sensors)}")

    def calibration_hash(self) -> str:
        """First 16 hex digits of a SHA-256 over mounts and intrinsics, equal on every machine."""
        digest = hashlib.sha256()
        for sensor in self.sensors:
            digest.update(f"{sensor.name}|{sensor.modality}|".encode())
            digest.update(_stable_bytes(sensor.ego_SE3_sensor))
            if (camera := sensor.camera) is not None:
                digest.update(f"{camera.width_px}x{camera.height_px}|{camera.projection}|".encode())
                digest.update(_stable_bytes(camera.intrinsic) + _stable_bytes(camera.distortion))
                digest.update(_stable_bytes(np.array([camera.xi])))
        return digest.hexdigest()[:16]


def _stable_bytes(values: NDArray[Any]) -> bytes:
    # Nine decimals: the last bits differ between BLAS builds, and -0.0 from 0.0.
    return (np.round(values, 9) + 0.0).astype("<f8").tobytes()
