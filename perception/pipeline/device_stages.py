"""Encoding where the device prepares payloads itself: decoding on threads, everything after it launched from there."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic_ns

from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.stages import CameraRequest, EncodeRequest, LidarRequest
from perception.models.device_front import DeviceFront
from perception.pipeline.encoded import Encoded, describe
from perception.pipeline.preprocess import preprocess_radar

MAX_THREADS = 8


class DeviceStages:
    """Begins encodings in the order of the requests; each sensor's own are one after the other, on its lane.

    Images are decoded on threads, since a JPEG costs the host some milliseconds and OpenCV lets go of the interpreter
    lock. Everything else is launched by the calling thread.
    """

    def __init__(self, front: DeviceFront, config: ModelConfig) -> None:
        self._front, self._config = front, config
        self._threads = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="decode")

    def encode(self, request: EncodeRequest) -> Encoded:
        """Begin one request; what comes back settles once the payload is decoded and its work is launched."""
        started_ns = monotonic_ns()
        stage, sensors = describe(request)
        if isinstance(request, CameraRequest):
            frame = request.frame
            pending = self._threads.submit(self._front.encode_camera, frame.sensor, frame.data, request.camera)
        else:
            pending = _done(self._points(request))
        return Encoded(
            stage=stage,
            sensors=sensors,
            features=None,
            error=None,
            started_ns=started_ns,
            finished_ns=monotonic_ns(),
            pending=pending,
        )

    def _points(self, request: EncodeRequest) -> Tensor:
        if isinstance(request, LidarRequest):
            sweeps = (request.sweep, *request.earlier[: self._config.lidar.sweeps - 1])
            return self._front.encode_lidar(request.sweep.sensor, sweeps, request.ego_SE3_sensor, request.motion)
        assert not isinstance(request, CameraRequest)
        packed = preprocess_radar(request, self._config)
        return self._front.encode_packed_radar(packed.points, packed.count)


def _done(features: Tensor) -> Future[Tensor]:
    future: Future[Tensor] = Future()
    future.set_result(features)
    return future
