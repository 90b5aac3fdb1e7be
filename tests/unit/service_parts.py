"""Parts for tests of the service: engines that answer when they are told to, drives that break, an HTTP client."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic, monotonic_ns, sleep
from typing import Any

import numpy as np

from perception.core.errors import DriveError
from perception.core.messages import AnyMessage
from perception.core.ports import FeatureHandle
from perception.core.results import Detections, PathHints
from perception.core.rig import SensorRig
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo, StageSpan
from perception.sources.memory import MemorySource

PATIENCE_S = 60.0


def until(condition: Callable[[], bool], describe: Callable[[], str] = lambda: "") -> None:
    """Wait for `condition`; fails where it never comes, with what `describe` says then."""
    deadline_s = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline_s, f"it never came true: {describe()}"
        sleep(0.005)


@dataclass(frozen=True)
class Handle:
    key: str


class FakeEngine:
    """Detects nothing. waits: futures are left open until `answer`; fails: fusion raises this instead."""

    def __init__(self, name: str = "first", *, placement: str = "fake", waits: bool = False) -> None:
        self.placement = placement
        self.model = ModelInfo(name=name, hash=name.ljust(16, "0"), trained=False)
        self.waits = waits
        self.fails: Exception | None = None
        self.encoded: list[str] = []
        self.held: set[str] = set()
        self.fused: list[FuseRequest] = []
        self.open: list[Future[FusionOutput]] = []
        self.is_closed = False

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        assert not self.is_closed
        assert request.key not in self.held, f"{request.key} is encoded twice"
        self.encoded.append(request.key)
        self.held.add(request.key)
        return Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        assert not self.is_closed
        assert {handle.key for handle in features} <= self.held, "fused features that are not here"
        self.fused.append(request)
        future: Future[FusionOutput] = Future()
        self.open.append(future)
        if not self.waits:
            self.answer()
        return future

    def answer(self) -> None:
        """Answer all that is open."""
        while self.open:
            future = self.open.pop(0)
            if self.fails is not None:
                future.set_exception(self.fails)
            else:
                future.set_result(output())

    def release(self, features: Sequence[FeatureHandle]) -> None:
        self.held -= {handle.key for handle in features}

    def close(self) -> None:
        self.is_closed = True


def output() -> FusionOutput:
    now_ns = monotonic_ns()
    spans = (
        StageSpan(
            stage="camera", sensors=("CAM_FRONT",), started_ns=now_ns - 3_000_000, finished_ns=now_ns - 2_000_000
        ),
        StageSpan(stage="fusion", sensors=(), started_ns=now_ns - 1_000_000, finished_ns=now_ns),
    )
    return FusionOutput(
        detections=Detections.empty(),
        path_hints=PathHints(
            confidence=np.ones(1, dtype=np.float32),
            waypoints_m=np.zeros((1, 6, 2), dtype=np.float32),
            times_s=np.linspace(0.5, 3.0, 6, dtype=np.float32),
            target_speed_mps=0.0,
        ),
        failures={},
        stage_latency_ns={"camera": 1_000_000, "fusion": 1_000_000},
        dense={},
        spans=spans,
    )


class BreakingSource(MemorySource):
    """A drive that breaks after `good` messages, as often as `breaks` says; whole after that."""

    def __init__(self, rig: SensorRig, messages: Sequence[AnyMessage], *, good: int) -> None:
        super().__init__(rig, messages)
        self._good = good

    def messages(self) -> Iterator[AnyMessage]:
        for number, message in enumerate(super().messages()):
            if number == self._good:
                raise DriveError("the cable was pulled")
            yield message


def ask(
    url: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status and text of a GET, or of a POST where there is a body."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
