"""Other vehicles' rigs from one: mounts, lenses and ranging sensors moved a little at random.

A network that learned on one rig alone knows its mounts by heart; one that saw many reads the calibration.
"""

from typing import Any

import numpy as np
from pydantic import ValidationError

from sim.rig import CameraConfig, LidarConfig, MountConfig, RadarConfig, RigSpec

MAX_SHIFT_M = 0.25
MAX_TURN_DEG = 4.0
MAX_TILT_DEG = 1.5
MAX_ZOOM = 0.15
_TRIES = 8


def vary_rig(spec: RigSpec, amount: float, rng: np.random.Generator) -> RigSpec:
    """A rig like `spec`; amount: 0 leaves it as it is, 1 moves mounts by up to `MAX_SHIFT_M` and `MAX_TURN_DEG`, focal
    lengths by `MAX_ZOOM`, and changes noise, drop-out, intensity scale and sensitivity of lidars and radars."""
    if amount == 0:
        return spec
    return spec.model_copy(update={"sensors": tuple(_vary(sensor, amount, rng) for sensor in spec.sensors)})


def _vary(
    sensor: CameraConfig | LidarConfig | RadarConfig, amount: float, rng: np.random.Generator
) -> CameraConfig | LidarConfig | RadarConfig:
    for _ in range(_TRIES):
        changes: dict[str, Any] = {"mount": _moved(sensor.mount, amount, rng).model_dump()}
        if isinstance(sensor, CameraConfig):
            zoom = 1 + MAX_ZOOM * amount * rng.uniform(-1, 1)
            k = sensor.intrinsics
            changes["intrinsics"] = {**k.model_dump(), "fx": k.fx * zoom, "fy": k.fy * zoom}
        elif isinstance(sensor, LidarConfig):
            changes["range_noise_m"] = min(1.0, sensor.range_noise_m * 2 ** (amount * rng.uniform(-1, 1)))
            changes["drop_share"] = min(0.5, sensor.drop_share * 3 ** (amount * rng.uniform(-1, 1)))
            changes["intensity_gamma"] = min(2.0, sensor.intensity_gamma * 2 ** (amount * rng.uniform(-1, 0.3)))
            changes["diffuse_range_m"] = sensor.diffuse_range_m * 1.5 ** (amount * rng.uniform(-1, 1))
        else:
            changes["sensitivity_dbsm"] = sensor.sensitivity_dbsm + 4 * amount * rng.uniform(-1, 1)
            changes["clutter_per_scan"] = sensor.clutter_per_scan * 2 ** (amount * rng.uniform(-1, 1))
        try:
            return type(sensor).model_validate({**sensor.model_dump(), **changes})
        except ValidationError:  # a lens or mount at the edge of what is allowed: draw again
            continue
    return sensor


def _moved(mount: MountConfig, amount: float, rng: np.random.Generator) -> MountConfig:
    shift = MAX_SHIFT_M * amount * rng.uniform(-1, 1, 3)
    yaw, pitch, roll = amount * rng.uniform(-1, 1, 3) * (MAX_TURN_DEG, MAX_TILT_DEG, MAX_TILT_DEG)
    return MountConfig(
        x_m=mount.x_m + shift[0],
        y_m=float(np.clip(mount.y_m + shift[1], -3, 3)),
        z_m=max(0.2, mount.z_m + shift[2]),
        yaw_deg=mount.yaw_deg + yaw,
        pitch_deg=mount.pitch_deg + pitch,
        roll_deg=mount.roll_deg + roll,
    )
