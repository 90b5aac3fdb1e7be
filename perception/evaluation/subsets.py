"""What the service would see with fewer kinds of sensors: encoded once, fused once for each subset of modalities."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import combinations
from typing import Final

from perception.core.forwarding import ForwardingEngine
from perception.core.ports import Engine, FeatureHandle
from perception.core.results import Detections
from perception.core.rig import Modality, SensorRig
from perception.core.stages import FuseRequest, FusionOutput

Subset = frozenset[Modality]

SUBSETS: Final[tuple[Subset, ...]] = tuple(
    frozenset(chosen) for count in (3, 2, 1) for chosen in combinations(Modality, count)
)
"""All seven, the whole first."""


def subset_name(subset: Subset) -> str:
    """Such as `camera+lidar`."""
    return "+".join(modality.value for modality in Modality if modality in subset)


def subsets_of(rig: SensorRig) -> tuple[Subset, ...]:
    """The subsets of what a rig has; its whole set first."""
    own = frozenset(sensor.modality for sensor in rig.sensors)
    return tuple(subset for subset in SUBSETS if subset <= own)


def keep_only(
    request: FuseRequest, features: Sequence[FeatureHandle], subset: Subset
) -> tuple[FuseRequest, list[FeatureHandle]]:
    """A request and its features with the sensors of other modalities left out, as if they had been silent."""
    views, sweeps = len(request.cameras), len(request.lidars)
    cameras, lidars, radar = features[:views], features[views : views + sweeps], features[views + sweeps :]
    kept: list[FeatureHandle] = []
    if Modality.CAMERA in subset:
        kept += cameras
    else:
        request = replace(request, cameras=())
    if Modality.LIDAR in subset:
        kept += lidars
    else:
        request = replace(request, lidars=(), lidar_age_ns=())
    if Modality.RADAR in subset:
        kept += radar
    else:
        request = replace(request, radar_age_ns=None)
    return request, kept


class ObservedEngine(ForwardingEngine):
    """An engine that remembers what it was asked to fuse, and at `masked_ns` fuses it for `subsets` besides.

    now_ns: set by whoever feeds the session: arrival of the message under way. requests: by reference time. ready_ns:
    by reference time, the arrival of the message that made the bundle ready. Reference times that come again (a clock
    that jumped back) keep what came last.
    """

    def __init__(self, engine: Engine, subsets: Sequence[Subset], masked_ns: frozenset[int]) -> None:
        super().__init__(engine)
        self._masked_ns = masked_ns
        self._masked: dict[Subset, dict[int, Future[FusionOutput]]] = {subset: {} for subset in subsets}
        self.now_ns = 0
        self.requests: dict[int, FuseRequest] = {}
        self.ready_ns: dict[int, int] = {}

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        self.requests[request.reference_ns] = request
        self.ready_ns[request.reference_ns] = self.now_ns
        whole = self._engine.fuse(request, features)
        if request.reference_ns in self._masked_ns:
            for subset, futures in self._masked.items():
                futures[request.reference_ns] = self._engine.fuse(*keep_only(request, features, subset))
        return whole

    def masked(self, timeout_s: float) -> dict[Subset, dict[int, Detections]]:
        """What was detected with each subset, by reference time; waits for what is under way."""
        return {
            subset: {time: future.result(timeout_s).detections for time, future in futures.items()}
            for subset, futures in self._masked.items()
        }
