"""A function of tensors recorded once for each shape and lane, then replayed: one launch in place of hundreds.

CUDA graphs read and write fixed memory. So inputs are copied into the recording's own, and outputs out of it: features
wait for their fusion while the next frame is encoded already.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]

MAX_RECORDINGS: Final = 64
"""Each holds memory of its own; shapes beyond run without a recording."""
WARM_UP: Final = 3
"""Runs before a recording, in which libraries choose their kernels and allocate their workspaces."""


_RECORDING = threading.Lock()
"""CUDA records one graph at a time."""


class Recording(Protocol):
    """What `record` made of a function: `replay` reads `inputs` and leaves `outputs`."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def replay(self) -> None: ...


Recorder = Callable[[Function, tuple[Tensor, ...]], Recording]


class Recorded:
    """A function that is recorded the first time it meets a shape on a lane. Safe to call from several threads, one for
    each lane.

    lane: names the current lane; two lanes never share a recording, since they may replay at once. record: makes a
    recording; `CudaRecording` but for tests.
    """

    def __init__(self, function: Function, lane: Callable[[], str], record: Recorder) -> None:
        self._function, self._lane, self._record = function, lane, record
        self._recordings: dict[tuple[object, ...], Recording] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = (self._lane(), *((tuple(one.shape), one.dtype) for one in inputs))
        recording = self._recordings.get(key) or self._new(key, inputs)
        if recording is None:
            return self._function(*inputs)
        for held, given in zip(recording.inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)

    def _new(self, key: tuple[object, ...], inputs: Sequence[Tensor]) -> Recording | None:
        with _RECORDING:
            if len(self._recordings) >= MAX_RECORDINGS:
                return None
            # Contiguous copies: a recording's memory must not be anybody else's.
            held = tuple(one.clone(memory_format=torch.contiguous_format) for one in inputs)
            self._recordings[key] = self._record(self._function, held)
            return self._recordings[key]


@dataclass(slots=True, eq=False)
class CudaRecording:
    """A CUDA graph on the stream that was current. Not yet run on a GPU."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    graph: torch.cuda.CUDAGraph

    @classmethod
    def of(cls, function: Function, inputs: tuple[Tensor, ...]) -> "CudaRecording":
        """Warm up and record; the inputs' values do not matter but must be fit for the function."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*inputs)
        current.wait_stream(side)
        current.synchronize()  # nothing of the warm-up may be under way while the graph is recorded
        graph = torch.cuda.CUDAGraph()
        # Other threads go on decoding and launching: only what this one does is held to a recording's rules.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*inputs)
        return cls(inputs=inputs, outputs=outputs, graph=graph)

    def replay(self) -> None:
        self.graph.replay()
