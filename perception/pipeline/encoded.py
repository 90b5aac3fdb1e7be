"""What becomes of a request to encode."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import monotonic_ns

import torch

from perception.core.errors import PayloadError
from perception.core.stages import CameraRequest, EncodeRequest, LidarRequest, RadarRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """Features of one request, fit to cross processes. features is None where `error` says why there are none.

    stage: `camera`, `lidar` or `radar`. sensors: whose messages went in. started_ns, finished_ns: monotonic. pending:
    the features where they are still under way, and `features` None; `settled` waits for them.
    """

    stage: str
    sensors: tuple[str, ...]
    features: torch.Tensor | None
    error: str | None
    started_ns: int
    finished_ns: int
    pending: Future[torch.Tensor] | None = None

    def settled(self) -> "Encoded":
        """The same once the features are there (launched, on a GPU) or the payload was found to be broken."""
        if self.pending is None:
            return self
        features, error = None, None
        try:
            features = self.pending.result()
        except PayloadError as problem:
            error = str(problem)
        return replace(self, features=features, error=error, pending=None, finished_ns=monotonic_ns())

    def __reduce__(self) -> tuple[Callable[..., "Encoded"], tuple[object, ...]]:
        """Between processes features travel on the host, whatever device they are on: the other may have none."""
        done = self.settled()
        features = None if done.features is None else done.features.cpu()
        return _encoded, (done.stage, done.sensors, features, done.error, done.started_ns, done.finished_ns)


def _encoded(
    stage: str, sensors: tuple[str, ...], features: torch.Tensor | None, error: str | None, started: int, finished: int
) -> Encoded:
    return Encoded(
        stage=stage, sensors=sensors, features=features, error=error, started_ns=started, finished_ns=finished
    )


def describe(request: EncodeRequest) -> tuple[str, tuple[str, ...]]:
    """The stage of a request and the sensors whose messages are in it."""
    if isinstance(request, CameraRequest):
        return "camera", (request.frame.sensor,)
    if isinstance(request, LidarRequest):
        return "lidar", (request.sweep.sensor,)
    assert isinstance(request, RadarRequest)
    return "radar", tuple(scan.sensor for scan in request.scans)
