"""Backends side by side: frame after frame on one and then the other, so that a busy machine slows all alike."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from perception.config.schema import BackendChoice
from perception.models.bench import STAGES, WARM_UP, NoiseFrame, summary
from perception.models.checkpoint import load_model


def bench_backends(
    name: str, backends: Sequence[str], threads: int, frames: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Time `frames` noise bundles on each of `backends` in turn, on `threads` threads, on the CPU.

    Returns by backend: latency_ms and stage_ms as `bench_model`, cpu_ms (processor time of a frame), ratio (median
    latency over that of the first backend) and heat_difference (largest, from the first backend's heatmap, 0..1).
    Raises what `load_model` raises, for one that is not installed or whose files were not exported.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        choices = {one: BackendChoice.model_validate({"backend": one, "device": "cpu"}) for one in backends}
        models = {one: load_model(name, choice=choice) for one, choice in choices.items()}
        runs = {one: NoiseFrame(model, np.random.default_rng(seed)) for one, model in models.items()}
        times: dict[str, list[tuple[float, ...]]] = {one: [] for one in backends}
        spent: dict[str, list[float]] = {one: [] for one in backends}
        for number in range(WARM_UP + frames):
            for one, run in runs.items():
                began = time.process_time()
                taken = run.run()
                if number >= WARM_UP:
                    times[one].append(taken)
                    spent[one].append((time.process_time() - began) * 1e3)
        heat = {one: run.heatmap() for one, run in runs.items()}
    finally:
        torch.set_num_threads(before)
    rows = {one: np.array(times[one]) for one in backends}
    first = backends[0]
    return {
        one: {
            "ratio": float(np.median(rows[one].sum(axis=1)) / np.median(rows[first].sum(axis=1))),
            "latency_ms": summary(rows[one].sum(axis=1)),
            "stage_ms": {stage: summary(rows[one][:, i]) for i, stage in enumerate(STAGES)},
            "cpu_ms": float(np.median(spent[one])),
            "heat_difference": float(np.abs(heat[one] - heat[first]).max()),
        }
        for one in backends
    }
