"""How fast a GPU could run a model at best: by its arithmetic and by its memory, from published figures."""

from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLimits:
    """Dense peak of 16-bit tensor cores in TFLOP/s, and memory bandwidth in TB/s, as the maker states them."""

    tflops: float
    terabytes_per_s: float


GPUS: Final = {
    "H200": GpuLimits(tflops=989.0, terabytes_per_s=4.8),
    "H100": GpuLimits(tflops=989.0, terabytes_per_s=3.35),
    "A100": GpuLimits(tflops=312.0, terabytes_per_s=2.0),
    "L4": GpuLimits(tflops=121.0, terabytes_per_s=0.3),
    "RTX 4090": GpuLimits(tflops=165.0, terabytes_per_s=1.0),
}
"""SXM or board figures of the data sheets, without sparsity (NVIDIA: H200 and H100 data sheets, 2024; A100, 2021; L4,
2023; Ada architecture whitepaper, 2023)."""

BYTES: Final = 2

WHAT_COUNTS: Final = (
    "2 FLOP for a multiplication and addition; weights read once; outputs of convolutions, linear layers and norms "
    "written and read once, in 16 bits"
)


def limits_of(device_name: str) -> tuple[str, GpuLimits] | None:
    """The known GPU that a device's name contains, or None."""
    for name, limits in GPUS.items():
        if name in device_name:
            return name, limits
    return None


def floor_ms(gflop: float, traffic_gb: float, limits: GpuLimits) -> dict[str, float]:
    """Least time of one frame in ms: by arithmetic, by memory, and the greater of the two."""
    arithmetic, memory = gflop / limits.tflops, traffic_gb / limits.terabytes_per_s
    return {"arithmetic_ms": arithmetic, "memory_ms": memory, "floor_ms": max(arithmetic, memory)}


def traffic_gb(weights: int, activations: int) -> float:
    """Memory traffic of a frame in GB: weights read once, each layer's output written once and read once, 16 bits."""
    return (weights + 2 * activations) * BYTES / 1e9


class Account:
    """Counts, while it is open, the FLOPs of everything and the outputs of `network`'s convolutions, linear layers and
    norms (elements, all runs together)."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._counter = FlopCounterMode(display=False)
        self._handles: list[Any] = []
        self.activations = 0

    def __enter__(self) -> "Account":
        for module in self._network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm):
                self._handles.append(module.register_forward_hook(self._add))
        self._counter.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        self._counter.__exit__(*problem)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    @property
    def gflop(self) -> float:
        return float(self._counter.get_total_flops()) / 1e9

    def _add(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.activations += output.numel()


def describe_floor(gflop: float, gb: float) -> list[str]:
    """The computation in words, one line a GPU."""
    lines = [f"{gflop:.1f} GFLOP and {gb:.3f} GB a frame: {WHAT_COUNTS}"]
    for name, limits in GPUS.items():
        floor = floor_ms(gflop, gb, limits)
        lines.append(
            f"  {name}: {gflop:.1f} GFLOP / {limits.tflops:g} TFLOP/s = {floor['arithmetic_ms']:.3f} ms; "
            f"{gb:.3f} GB / {limits.terabytes_per_s:g} TB/s = {floor['memory_ms']:.3f} ms; "
            f"floor {floor['floor_ms']:.3f} ms"
        )
    return lines
