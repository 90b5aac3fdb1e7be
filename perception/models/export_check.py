"""Whether exported files say what the network says, on noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.errors import ModelError
from perception.models.encoders.camera import STRIDE
from perception.models.export import SUFFIXES, Format, Stage, stages_of
from perception.models.network import PerceptionNetwork

TOLERANCE: Final = 1e-3
"""Largest difference allowed, as a share of the largest value of an output (or of 1 where that is less)."""


def check_export(
    network: PerceptionNetwork, folder: Path, form: Format, names: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Run each file and the network on the same noise; the largest difference by stage.

    names: of the stages that there are files of. Raises ModelError where one differs by more than `TOLERANCE`, or
    where ONNX Runtime is not installed.
    """
    stages, found = stages_of(network), {}
    for name in names:
        stage = stages[name]
        inputs = _noise(stage, network.config, torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = stage.module(*inputs)
        path = folder / f"{name}{SUFFIXES[form]}"
        given = _by_onnxruntime(path, inputs) if form == "onnx" else _by_torch(path, inputs)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        found[name] = max(_difference(one, other) for one, other in zip(given, wanted, strict=True))
        if not found[name] <= TOLERANCE:
            raise ModelError(f"{path}: differs from the network by {found[name]:.2g}, more than {TOLERANCE:g}")
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    largest = max(1.0, float(expected.abs().max()))
    return float((found.double() - expected.double()).abs().max()) / largest


def _by_torch(path: Path, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        output = torch.export.load(path).module()(*inputs)
    return output if isinstance(output, tuple) else (output,)


def _by_onnxruntime(path: Path, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("checking ONNX files needs onnxruntime; pip install 'perception[export]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    outputs = session.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
    return tuple(torch.from_numpy(np.asarray(output)) for output in outputs)


def _noise(stage: Stage, config: ModelConfig, random: torch.Generator) -> tuple[Tensor, ...]:
    """Inputs of an example's shapes with something in them."""
    return tuple(_noise_like(name, one, config, random) for name, one in zip(stage.inputs, stage.example, strict=True))


def _noise_like(name: str, example: Tensor, config: ModelConfig, random: torch.Generator) -> Tensor:
    """Features and pixels of noise, points within the range; geometry and presence stay as in the example."""
    if name == "images":
        return torch.randint(0, 256, example.shape, dtype=torch.uint8, generator=random)
    if name == "points":
        points = torch.rand(example.shape, generator=random) * 2 - 1
        points[..., :2] *= config.range_m * 0.99
        return points
    if name == "count":
        return torch.full_like(example, 500)
    if name.endswith("_features"):
        return torch.randn(example.shape, generator=random)
    if name == "lift_uv":
        size = torch.tensor([config.image.width_px // STRIDE, config.image.height_px // STRIDE])
        return torch.rand(example.shape, generator=random) * size
    if name in ("ego", "camera_age_s", "lidar_age_s", "radar_age_s"):
        return torch.randn(example.shape, generator=random) * 0.05
    return example
