"""The network by torch: as it is, compiled, or recorded in CUDA graphs; on a CPU or a GPU, whole or half precision."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor

from perception.core.errors import ModelError
from perception.models.backends.graphs import CudaRecording, Recorded, Recorder
from perception.models.backends.lanes import FUSION, Lanes
from perception.models.backends.precision import autocast, choose_precision, to_precision
from perception.models.backends.shapes import bundle_bucket, pad_rows, padded_inputs
from perception.models.backends.transfer import answer_of, inputs_to_device, to_device, to_host
from perception.models.blocks import speed_up
from perception.models.network import PerceptionNetwork
from perception.models.tensors import FusionInputs, FusionTensors

Mode = Literal["torch", "compile", "graph"]
Function = Callable[..., tuple[Tensor, ...]]


class TorchBackend:
    """`network` is copied: the copy's norms are folded and its weights stored as they are used.

    mode: `torch` runs it operation by operation, `compile` by torch.compile, `graph` from CUDA graphs. The latter two
    round the number of sensors and bundles up, with absent ones, so that few shapes occur. record: see `Recorded`.
    Raises ModelError for a precision or a device that is none, and for graphs without a GPU.
    """

    def __init__(
        self,
        network: PerceptionNetwork,
        *,
        device: torch.device | None = None,
        precision: str = "auto",
        mode: Mode = "torch",
        record: Recorder | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        if mode == "graph" and self._device.type != "cuda" and record is None:
            raise ModelError("model.backend graph needs a GPU; use torch, compile, onnxruntime or openvino on a CPU")
        self._mode: Mode = mode
        self._precision = choose_precision(precision, self._device)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        speed_up(self.network)
        self.network.to(self._device)
        to_precision(self.network, self._precision)
        self._lanes = Lanes(self._device)
        self._record = (record or CudaRecording.of) if mode == "graph" else None
        stages: tuple[Function, ...] = (self._cameras, self._lidar, self._radar, self._fusion)
        self._run_cameras, self._run_lidar, self._run_radar, self._run_fusion = map(self.wrap, stages)

    @property
    def name(self) -> str:
        return self._mode

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def precision(self) -> str:
        return self._precision

    def lane(self, sensor: str) -> AbstractContextManager[None]:
        return self._lanes.on(sensor)

    def wait_for(self, features: Sequence[Tensor]) -> None:
        self._lanes.wait_for_all(features)

    def wrap(self, function: Function) -> Function:
        """A function of tensors as this backend runs its own: recorded or compiled, or as it is."""
        if self._record is not None:
            return Recorded(function, lambda: self._lanes.current, self._record)
        return torch.compile(function, dynamic=False) if self._mode == "compile" else function

    @torch.inference_mode()
    def encode_cameras(self, images: Tensor) -> Tensor:
        return self._encode(self._run_cameras, images)

    @torch.inference_mode()
    def encode_lidar(self, points: Tensor, count: Tensor) -> Tensor:
        return self._encode(self._run_lidar, points, count)

    @torch.inference_mode()
    def encode_radar(self, points: Tensor, count: Tensor) -> Tensor:
        return self._encode(self._run_radar, points, count)

    @torch.inference_mode()
    def fuse(self, inputs: FusionInputs) -> FusionTensors:
        bundles = len(inputs.ego)
        with self._lanes.on(FUSION):
            self.wait_for([getattr(inputs, field.name) for field in fields(inputs)])
            moved = inputs_to_device(inputs, self._device)
            if self._mode != "torch":
                moved = padded_inputs(moved, *bundle_bucket(moved))
            outputs = self._run_fusion(*(getattr(moved, field.name) for field in fields(moved)))
            return to_host(_first_bundles(_as_tensors(outputs), bundles), self._device)

    def _encode(self, stage: Function, *inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        with self._lanes.on(self._lanes.current or "encode"):
            moved = [to_device(one, self._device) for one in inputs]
            if self._mode != "torch":
                moved = [pad_rows(one) for one in moved]
            return stage(*moved)[0][:rows]

    # What follows is recorded or compiled: tensors of fixed shapes in and out, and nothing asked of the device.
    def _cameras(self, images: Tensor) -> tuple[Tensor, ...]:
        with autocast(self._device, self._precision):
            return (self.network.encode_cameras(images).float().contiguous(),)

    def _lidar(self, points: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        with autocast(self._device, self._precision):
            return (self.network.encode_lidar(points, count).float().contiguous(),)

    def _radar(self, points: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        with autocast(self._device, self._precision):
            return (self.network.encode_radar(points, count).float().contiguous(),)

    def _fusion(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = {field.name: tensor for field, tensor in zip(fields(FusionInputs), tensors, strict=True)}
        with autocast(self._device, self._precision):
            answer = answer_of(self.network.fuse(FusionInputs(**named)))
        return tuple(getattr(answer, field.name) for field in fields(answer))


def _as_tensors(outputs: tuple[Tensor, ...]) -> FusionTensors:
    return FusionTensors(**{field.name: one for field, one in zip(fields(FusionTensors), outputs, strict=True)})


def _first_bundles(tensors: FusionTensors, count: int) -> FusionTensors:
    """Without the bundles that were added to round their number up."""
    layered = {"class_logits", "boxes", "attribute_logits"}
    named = {field.name: getattr(tensors, field.name) for field in fields(tensors)}
    return FusionTensors(
        **{name: tensor[:, :count] if name in layered else tensor[:count] for name, tensor in named.items()}
    )
