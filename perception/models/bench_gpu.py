"""The model on a GPU, stage by stage and in batches, beside the floor of its arithmetic and memory.

Without a GPU the same code runs on the CPU, and what only a GPU can tell is `NOT_MEASURED`.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from perception.config.schema import BackendChoice
from perception.models.backends.open import choose_device
from perception.models.bench import STAGES, WARM_UP, NoiseFrame, summary
from perception.models.checkpoint import load_model
from perception.models.gpu_floor import Account, describe_floor, floor_ms, limits_of, traffic_gb
from perception.models.inference import Bundle

NOT_MEASURED: Final = "not measured"
BATCHES: Final = (1, 2, 4, 8, 16, 32)


def bench_gpu(
    names: Sequence[str], *, device: str = "auto", frames: int = 50, batches: Sequence[int] = BATCHES, seed: int = 0
) -> dict[str, Any]:
    """Latency at batch 1, throughput by batch, memory and floor of each of the models `names`.

    Raises ConfigError for a device that is none.
    """
    place = choose_device(device)
    is_gpu = place.type == "cuda"
    title = torch.cuda.get_device_name(place) if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    report: dict[str, Any] = {"device": title, "torch": torch.__version__}
    for name in names:
        report[name] = _measured(name, place, title, frames=frames, batches=batches, seed=seed)
    return report


def _measured(
    name: str, place: torch.device, title: str, *, frames: int, batches: Sequence[int], seed: int
) -> dict[str, Any]:
    is_gpu = place.type == "cuda"
    cpu = load_model(name, choice=BackendChoice(device="cpu", backend="torch"))
    frame = NoiseFrame(cpu, np.random.default_rng(seed))
    with Account(cpu.backend.network) as account:  # type: ignore[attr-defined]
        frame.run()
    weights = sum(parameter.numel() for parameter in cpu.backend.network.parameters())  # type: ignore[attr-defined]
    gb = traffic_gb(weights, account.activations)
    model = cpu
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(place)
        model = load_model(name, choice=BackendChoice(device=str(place)))
        frame = NoiseFrame(model, np.random.default_rng(seed))
    times = np.array([frame.run() for _ in range(WARM_UP + frames)])[WARM_UP:]
    known = limits_of(title)
    figures = {
        "backend": model.backend.name,
        "precision": model.backend.precision,
        "parameters": weights,
        "latency_ms": summary(times.sum(axis=1)),
        "stage_ms": {stage: summary(times[:, i]) for i, stage in enumerate(STAGES)},
        "frames_per_s": {str(batch): _throughput(model_frame=frame, batch=batch, frames=frames) for batch in batches},
        "gpu_memory_mb": torch.cuda.max_memory_allocated(place) / 1e6 if is_gpu else NOT_MEASURED,
        "floor": floor_ms(account.gflop, gb, known[1]) if known else NOT_MEASURED,
        "computation": describe_floor(account.gflop, gb),
    }
    if not is_gpu:
        figures["gpu_latency_ms"] = figures["gpu_stage_ms"] = figures["gpu_frames_per_s"] = NOT_MEASURED
    return figures


def _throughput(model_frame: NoiseFrame, batch: int, frames: int) -> float:
    """Frames a second with `batch` of them at once: decoded images and packed points in, detections out."""
    model = model_frame.model
    rounds = max(1, frames // batch)
    images = list(model_frame.images) * batch
    cloud, returns = model_frame.packed()

    def once() -> None:
        cameras = model.encode_images(images)
        lidars = model.encode_packed_lidars([cloud[0]] * batch, [cloud[1]] * batch)
        radars = model.encode_packed_radars([returns[0]] * batch, [returns[1]] * batch)
        count = len(model_frame.images)
        model.fuse_bundles(
            [
                Bundle(
                    request=model_frame.request,
                    cameras=cameras[i * count : (i + 1) * count],
                    lidars=[lidars[i]],
                    radar=radars[i],
                )
                for i in range(batch)
            ]
        )

    once()  # records or compiles this size
    began = time.perf_counter()
    for _ in range(rounds):
        once()
    return rounds * batch / (time.perf_counter() - began)
