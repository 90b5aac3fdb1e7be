"""How fast the service is beside a bare loop that does nothing but read, decode and call the model."""

import math
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from perception.config.schema import ModelChoice, RuntimeConfig, ServiceConfig
from perception.core.messages import CameraFrame, Command, LidarSweep, RadarScan, Signal
from perception.core.ports import Engine, Source
from perception.core.results import PerceptionResult
from perception.core.rig import Modality
from perception.core.stages import CameraRequest, CameraView, FuseRequest, LidarRequest, RadarRequest
from perception.pipeline.laps import replay_laps
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions
from perception.pipeline.stages import Encoded, Stages, open_model
from perception.queues.memory import MemoryQueue
from perception.runtime.cluster import ray_cluster
from perception.runtime.ray_engine import ray_engine
from perception.sync.ego_estimator import MOTION_SPAN_NS, EgoMotionEstimator

LATENCY_RATE = 0.5
"""A pace that every placement keeps up with on two cores: beyond it one would measure a queue."""


def bench_pipeline(source: Source, *, threads: int, rounds: int, model: str = "tiny") -> dict[str, Any]:
    """Frames per second of the bare loop and of each placement, and latencies at a pace that all keep up with.

    `source` should hold its messages in memory, so that making them is not measured. In each of `rounds` the bare loop
    and the placements run in turn; the ratios are medians over the rounds.
    """
    choice = ModelChoice(name=model)
    rates: dict[str, list[float]] = {"bare": []}
    latency: dict[str, dict[str, float]] = {}
    bare = Stages(open_model(choice))
    for placement in ("local", "colocated", "split"):
        rates[placement] = []
        config = ServiceConfig(model=choice, runtime=RuntimeConfig(threads=threads))
        with _engine(placement, choice, threads) as engine:
            _service_rate(source, engine, config)  # warms actors, caches and the allocator
            for _ in range(rounds):
                torch.set_num_threads(threads)
                rates["bare"].append(_bare_rate(source, bare))
                rates[placement].append(_service_rate(source, engine, config))
            latency[placement] = _latency(source, engine, config)
            pairs = zip(rates[placement], rates["bare"][-rounds:], strict=True)
            latency[placement]["over_bare"] = round(statistics.median(ours / bare for ours, bare in pairs), 3)
    return {
        "drive": source.drive_id,
        "threads": threads,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "frames_per_s": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "over_bare": {name: figures.pop("over_bare") for name, figures in latency.items()},
        f"latency_at_rate_{LATENCY_RATE}_ms": latency,
    }


@contextmanager
def _engine(placement: str, choice: ModelChoice, threads: int) -> Iterator[Engine]:
    if placement == "local":
        yield LocalEngine(open_model(choice), threads=threads)
        return
    with ray_cluster():
        engine = ray_engine(
            choice,
            placement="split" if placement == "split" else "colocated",
            threads=0 if placement == "split" else threads,
        )
        try:
            yield engine
        finally:
            engine.close()


def _service_rate(source: Source, engine: Engine, config: ServiceConfig) -> float:
    results, elapsed_s = _play(source, engine, config, ReplayOptions(rate=math.inf))
    return len(results) / elapsed_s


def _latency(source: Source, engine: Engine, config: ServiceConfig) -> dict[str, float]:
    """From the last message's arrival to publication, at half the drive's pace, with and without the model's time."""
    results, _ = _play(source, engine, config, ReplayOptions(rate=LATENCY_RATE))
    stages = [result.provenance.stage_latency_ns for result in results]
    whole = np.array([stage["since_last_message"] for stage in stages]) / 1e6
    overhead = whole - np.array([stage["model_since_last_message"] for stage in stages]) / 1e6
    figures = {}
    for name, values in (("latency", whole), ("overhead", overhead)):
        for percent in (50, 99):
            figures[f"{name}_p{percent}"] = round(float(np.percentile(values, percent)), 2)
    return figures


def _play(
    source: Source, engine: Engine, config: ServiceConfig, options: ReplayOptions
) -> tuple[list[PerceptionResult], float]:
    results: list[PerceptionResult] = []
    queue = MemoryQueue("bench", config.queue)
    started = time.perf_counter()
    for _ in replay_laps(source, engine, queue, config, options=options, on_result=results.append):
        pass
    elapsed_s = time.perf_counter() - started
    queue.close()
    return results, elapsed_s


def _bare_rate(source: Source, stages: Stages) -> float:
    """Frames per second of the loop that somebody without a service would write: the latest of each sensor, fused."""
    rig = source.rig
    estimator = EgoMotionEstimator(rig)
    reference = rig.of(Modality.LIDAR)[0].name
    views: dict[str, tuple[CameraFrame, Encoded]] = {}
    scans: dict[str, RadarScan] = {}
    frames = 0
    started = time.perf_counter()
    for message in source.messages():
        estimator.observe(message)
        if isinstance(message, CameraFrame):
            camera = rig[message.sensor].camera
            assert camera is not None
            views[message.sensor] = (message, stages.encode(CameraRequest(key="", frame=message, camera=camera)))
        elif isinstance(message, RadarScan):
            scans[message.sensor] = message
        elif isinstance(message, LidarSweep) and message.sensor == reference:
            motion = estimator.motion_at(message.capture_ns, MOTION_SPAN_NS)
            mount = rig[reference].ego_SE3_sensor
            lidar = stages.encode(LidarRequest(key="", sweep=message, ego_SE3_sensor=mount, motion=motion))
            mounts = tuple(rig[name].ego_SE3_sensor for name in scans)
            scanned = tuple(scans.values())
            radars = RadarRequest(key="", scans=scanned, ego_SE3_sensor=mounts, motion=motion)
            request = FuseRequest(
                reference_ns=message.capture_ns,
                cameras=tuple(
                    CameraView(
                        sensor=name,
                        camera=rig[name].camera,  # type: ignore[arg-type]  # a camera has one
                        reference_SE3_camera=motion.at(frame.capture_ns) @ rig[name].ego_SE3_sensor,
                        age_ns=message.capture_ns - frame.capture_ns,
                    )
                    for name, (frame, _) in views.items()
                ),
                lidars=(reference,),
                lidar_age_ns=(0,),
                radar_age_ns=0 if scanned else None,
                speed_mps=motion.speed_mps,
                yaw_rate_radps=motion.yaw_rate_radps,
                command=Command.FOLLOW,
                speed_limit_mps=None,
                signal=Signal.UNKNOWN,
                route_distance_m=None,
            )
            encoded = [one for _, one in views.values()] + [lidar] + ([stages.encode(radars)] if scanned else [])
            stages.fuse(request, encoded)
            frames += 1
    return frames / (time.perf_counter() - started)
