"""How long the model alone takes: six decoded images, a sweep and radar returns in; detections and path hints out."""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perception.config.schema import ModelConfig
from perception.models.bench_frames import CAMERAS
from perception.models.bench_frames import surround_request as surround_request
from perception.models.inference import InferenceModel
from perception.models.network import build_network
from perception.models.postprocess import to_dense, to_detections, to_path_hints
from perception.models.preprocess import pack_points, pack_radar

LIDAR_POINTS = 30_000
RADAR_RETURNS = 300
WARM_UP = 3

STAGES = ("cameras", "lidar", "radar", "geometry", "fusion", "postprocess")


def bench_model(config: ModelConfig, threads: int, frames: int, seed: int = 0) -> dict[str, Any]:
    """Time `frames` bundles of a made-up six-camera rig on `threads` threads, one after the other.

    Returns parameters, gflop (a frame, counted by torch), latency_ms and stage_ms (each with min, p50 and p99) and
    max_rss_mb of the whole process so far. Input is noise: no stage's time depends on what the sensors see, but for
    the few detections. Torch's thread count is put back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = build_network(config)
        model = InferenceModel(network, trained=False)
        frame = NoiseFrame(model, np.random.default_rng(seed))
        with FlopCounterMode(display=False) as counter:
            frame.run()
        times = np.array([frame.run() for _ in range(WARM_UP + frames)])[WARM_UP:]  # (frames, stages) ms
    finally:
        torch.set_num_threads(before)
    return {
        "model": config.name,
        "threads": threads,
        "frames": frames,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gflop": counter.get_total_flops() / 1e9,
        "latency_ms": summary(times.sum(axis=1)),
        "stage_ms": {stage: summary(times[:, i]) for i, stage in enumerate(STAGES)},
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


class NoiseFrame:
    """One bundle of noise, run stage by stage. On a GPU each stage is waited for, so that its time is its own."""

    def __init__(self, model: InferenceModel, rng: np.random.Generator) -> None:
        self.model = model
        image = model.config.image
        self.images = rng.integers(0, 256, (CAMERAS, 3, image.height_px, image.width_px), dtype=np.uint8)
        self.points, self.intensity = _cloud(rng, LIDAR_POINTS), rng.random(LIDAR_POINTS, dtype=np.float32)
        self.returns, self.rcs = _cloud(rng, RADAR_RETURNS), rng.normal(size=RADAR_RETURNS).astype(np.float32)
        self.velocity = rng.normal(size=(RADAR_RETURNS, 2)).astype(np.float32)
        self.request = surround_request()

    def packed(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """The lidar's and the radars' points with their counts, as the encoders take them."""
        config = self.model.config
        return (
            pack_points(self.points, self.intensity, None, config),
            pack_radar(self.returns, self.rcs, self.velocity, None, config),
        )

    def heatmap(self) -> NDArray[np.float32]:
        """What the dense head says of the bundle, (classes, G, G) in 0..1."""
        model = self.model
        cameras = [model.encode_image(image) for image in self.images]
        lidar = model.encode_lidar(self.points, self.intensity)
        radar = model.encode_radar(self.returns, self.rcs, self.velocity)
        return to_dense(model.run(model.inputs(self.request, cameras, [lidar], radar)))["heatmap"]

    @torch.inference_mode()
    def run(self) -> tuple[float, ...]:
        """Milliseconds of each of `STAGES`."""
        model, spent = self.model, []

        def timed(stage: Callable[[], Any]) -> Any:
            start = time.perf_counter_ns()
            result = stage()
            if model.backend.device.type == "cuda":
                torch.cuda.synchronize(model.backend.device)
            spent.append((time.perf_counter_ns() - start) / 1e6)
            return result

        cameras: list[Tensor] = timed(lambda: [model.encode_image(image) for image in self.images])
        lidar: Tensor = timed(lambda: model.encode_lidar(self.points, self.intensity))
        radar: Tensor = timed(lambda: model.encode_radar(self.returns, self.rcs, self.velocity))
        inputs = timed(lambda: model.inputs(self.request, cameras, [lidar], radar))
        tensors = timed(lambda: model.run(inputs))
        timed(lambda: (to_detections(tensors, model.config), to_path_hints(tensors, model.config)))
        return tuple(spent)


def _cloud(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Points (count, 3) that thin out with distance."""
    distance, angle = rng.uniform(2.0, 70.0, count), rng.uniform(-np.pi, np.pi, count)
    height = rng.uniform(-0.5, 3.0, count)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle), height], axis=1).astype(np.float32)


def summary(times_ms: NDArray[np.float64]) -> dict[str, float]:
    return {
        "min": float(times_ms.min()),
        "p50": float(np.percentile(times_ms, 50)),
        "p99": float(np.percentile(times_ms, 99)),
    }
