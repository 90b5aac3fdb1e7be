"""Payloads to features without the host in between: what a GPU does for itself before the network."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.messages import LidarSweep
from perception.core.motion import EgoMotion
from perception.models.backends.torch_backend import TorchBackend
from perception.models.device_geometry import DeviceGeometry
from perception.models.device_images import DeviceImages
from perception.models.device_points import DevicePoints

RADARS = "radars"


class DeviceFront:
    """Prepares and encodes on the device of `backend`, each sensor on a lane of its own; geometry for the fusion too.

    Nothing here waits for the device but a JPEG decoder that does so itself. Radar returns are some hundred rows: the
    host packs them.
    """

    def __init__(self, config: ModelConfig, backend: TorchBackend) -> None:
        self._backend = backend
        self.images = DeviceImages(config.image, backend.device)
        self.points = DevicePoints(config, backend.device, backend.wrap)
        self.geometry = DeviceGeometry(config, backend.device, backend.wrap)

    @torch.inference_mode()
    def encode_camera(self, sensor: str, data: bytes, camera: CameraModel) -> Tensor:
        """Features (T, C) of one compressed image. Raises PayloadError where it cannot be decoded."""
        with self._backend.lane(sensor):
            return self._backend.encode_cameras(self.images.load(data, camera)[None])[0]

    @torch.inference_mode()
    def encode_lidar(
        self, sensor: str, sweeps: Sequence[LidarSweep], ego_SE3_sensor: NDArray[np.float64], motion: EgoMotion
    ) -> Tensor:
        """Features (G * G, C) of a sweep and those that join it, newest first, at the reference time of `motion`."""
        with self._backend.lane(sensor):
            points, count = self.points.pack(sweeps, ego_SE3_sensor, motion)
            return self._backend.encode_lidar(points[None], count[None])[0]

    @torch.inference_mode()
    def encode_packed_radar(self, points: NDArray[np.float32], count: NDArray[np.int64]) -> Tensor:
        """Features (G * G, C) of all radars' returns (P, 7), as `pack_radar` gives them."""
        with self._backend.lane(RADARS):
            return self._backend.encode_radar(torch.from_numpy(points)[None], torch.from_numpy(count[None]))[0]
