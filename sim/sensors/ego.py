"""What the ego measures of itself: a fused GNSS and IMU with slow errors, and noise on its rates."""

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import se3_from_yaw
from perception.core.messages import EgoState
from sim.rig import EgoConfig
from sim.scene import SceneView

F64 = NDArray[np.float64]

_PERIODS_S = np.array([31.0, 73.0, 177.0])
"""Periods of the slow errors: satellites and multipath drift over tens of seconds, never from message to message."""


class EgoSensor:
    """Errors of position and heading are sums of slow waves: poses close in time agree with each other."""

    def __init__(self, config: EgoConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._phase = rng.uniform(0, 2 * np.pi, (4, len(_PERIODS_S)))

    def capture(self, scene: SceneView, capture_ns: int, arrival_ns: int, rng: np.random.Generator) -> EgoState:
        config = self._config
        truth = scene.ego_at(capture_ns)
        x, y, z, turn = self._slow_error(capture_ns)
        drift = se3_from_yaw(np.radians(config.heading_error_deg) * turn)
        world_SE3_ego = truth.world_SE3_ego @ drift
        world_SE3_ego[:3, 3] += config.position_error_m * np.array([x, y, z])
        return EgoState(
            capture_ns=capture_ns,
            arrival_ns=arrival_ns,
            world_SE3_ego=world_SE3_ego,
            velocity_mps=truth.velocity_mps + rng.normal(0, config.speed_noise_mps, 2),
            yaw_rate_radps=truth.yaw_rate_radps + float(rng.normal(0, config.yaw_rate_noise_radps)),
        )

    def _slow_error(self, time_ns: int) -> F64:
        """(4,) of unit deviation: east, north, up, heading."""
        waves = np.sin(2 * np.pi * time_ns / 1e9 / _PERIODS_S + self._phase)
        error: F64 = waves.sum(axis=1) * np.sqrt(2 / len(_PERIODS_S))
        return error
