"""Between host and device without waiting: pinned memory on the way in, one wait on the way out."""

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.models.tensors import FusionInputs, FusionTensors


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. To a GPU it goes through pinned memory, in the order of the current stream.

    Torch's pinned allocator keeps the buffer until the copy is done, and hands it out again then. The tensor itself may
    be changed at once. What is on the device already is not copied.
    """
    if tensor.device == device or (device.type == "cuda" and tensor.is_cuda and device.index is None):
        return tensor
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    staged = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
    return staged.to(device, non_blocking=True)


def array_to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on `device`, as `to_device`. On a CPU it shares the array's memory, which must be writable."""
    return to_device(torch.from_numpy(array), device)


def inputs_to_device(inputs: FusionInputs, device: torch.device) -> FusionInputs:
    """All tensors of a batch on `device`, as `to_device`."""
    return FusionInputs(**{field.name: to_device(getattr(inputs, field.name), device) for field in fields(inputs)})


def answer_of(tensors: FusionTensors) -> FusionTensors:
    """What inference wants of the network's outputs: the decoder's last layer, in float32, no more."""
    return FusionTensors(
        heat_logits=tensors.heat_logits.float(),
        dense_boxes=tensors.dense_boxes.float(),
        drivable_logits=tensors.drivable_logits.float(),
        class_logits=tensors.class_logits[-1:].float(),
        boxes=tensors.boxes[-1:].float(),
        attribute_logits=tensors.attribute_logits[-1:].float(),
        query_cell=tensors.query_cell,
        mode_logits=tensors.mode_logits.float(),
        waypoints_m=tensors.waypoints_m.float(),
        target_speed_mps=tensors.target_speed_mps.float(),
        curve_logits=tensors.heat_logits.new_zeros((len(tensors.heat_logits), 0), dtype=torch.float32),
        depth_logits=tensors.heat_logits.new_zeros((len(tensors.heat_logits), 0, 0, 0), dtype=torch.float32),
    )


def to_host(tensors: FusionTensors, device: torch.device) -> FusionTensors:
    """The same on the CPU: every copy is launched, then the current stream is waited for, once."""
    if device.type != "cuda":
        return tensors
    copies = {}
    for field in fields(tensors):
        tensor: Tensor = getattr(tensors, field.name)
        copies[field.name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )
    torch.cuda.current_stream(device).synchronize()
    return FusionTensors(**copies)
