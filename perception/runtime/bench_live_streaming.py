"""Accuracy of what a consumer has at each moment: with and without prediction, in time and under twice the load.

The clips are played once for each number of cameras; when each result would have been out is then worked out from a
given time per frame (`evaluation/streaming.py`), so that the same figures come out on any machine.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perception.config.schema import ServiceConfig
from perception.core.forwarding import ForwardingEngine
from perception.core.ports import Engine, FeatureHandle, Source
from perception.core.rig import Modality
from perception.core.stages import FuseRequest, FusionOutput
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.run import DriveRun, frames_of, held, run_labelled, streamed
from perception.evaluation.scores import detection_scores

Tell = Callable[[str], None]
PERIOD_MS = 100.0
"""Of the clips' frames."""
OVERLOAD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to be late. frame_ms: what a frame takes with every camera. is_moved: results are carried to the time."""

    name: str
    frame_ms: float
    cameras: int | None
    is_moved: bool


def bench_streaming(
    clips: Sequence[Source], engine: Engine, config: ServiceConfig, *, frame_ms: float, rungs: Sequence[int], tell: Tell
) -> dict[str, Any]:
    """mAP, NDS and frames left out for each case.

    frame_ms: what a frame takes while the service keeps up; under the overload it takes `OVERLOAD` periods. rungs: with
    how many cameras, each costing its share of what the model takes (measured here: `camera_share`).
    Raises DriveError where a clip has no labels.
    """
    runs: dict[int | None, list[DriveRun]] = {}
    kept = list(clips)
    for cameras in (None, *rungs):
        tell("every camera" if cameras is None else f"{cameras} cameras")
        chosen = engine if cameras is None else FewerCameras(engine, cameras)
        runs[cameras] = [run_labelled(clip, chosen, config, every_sweep=True, is_kept=cameras is None) for clip in kept]
        if cameras is None:
            kept = [held(clip, run) for clip, run in zip(clips, runs[None], strict=True)]
    share = camera_share(runs[None])
    full = len(clips[0].rig.of(Modality.CAMERA))
    overloaded_ms = OVERLOAD * PERIOD_MS
    cases = [
        Case(name=name, frame_ms=ms, cameras=cameras, is_moved=is_moved)
        for name, ms, choices in (("in time", frame_ms, (None,)), ("overload", overloaded_ms, (None, *rungs)))
        for cameras in choices
        for is_moved in (False, True)
    ]
    offline = [frame for run in runs[None] for frame in frames_of(run)]
    return {
        "clips": [run.drive_id for run in runs[None]],
        "frames": len(offline),
        "camera_share": round(share, 3),
        "offline": _scores(offline),
        "cases": [_case(case, runs[case.cameras], share, full) for case in cases],
    }


def camera_share(runs: Sequence[DriveRun]) -> float:
    """How much of the model's work on a frame is encoding images: a median."""
    stages = [result.provenance.stage_latency_ns for run in runs for result in run.results]
    parts = ("camera", "lidar", "radar", "fusion")
    return float(np.median([one.get("camera", 0) / sum(one.get(part, 0) for part in parts) for one in stages]))


class FewerCameras(ForwardingEngine):
    """An engine that is given every image and fuses the first so many."""

    def __init__(self, engine: Engine, cameras: int) -> None:
        super().__init__(engine)
        self._cameras = cameras

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        views = len(request.cameras)
        fewer = replace(request, cameras=request.cameras[: self._cameras])
        return self._engine.fuse(fewer, [*features[: min(self._cameras, views)], *features[views:]])


def _case(case: Case, runs: Sequence[DriveRun], share: float, full: int) -> dict[str, Any]:
    left = 1.0 if case.cameras is None or not full else min(1.0, case.cameras / full)
    frame_ms = case.frame_ms * (1.0 - share * (1.0 - left))
    frames: list[EvaluatedFrame] = []
    left_out = 0
    for run in runs:
        seen, unbegun = streamed(run, latency_ns=round(frame_ms * 1e6), is_moved=case.is_moved)
        frames += seen
        left_out += unbegun
    return {
        "case": case.name,
        "cameras": "all" if case.cameras is None else case.cameras,
        "is_moved": case.is_moved,
        "frame_ms": round(frame_ms, 1),
        "left_out": left_out,
        **_scores(frames),
    }


def _scores(frames: Sequence[EvaluatedFrame]) -> dict[str, Any]:
    """Over the classes that occur."""
    scores = detection_scores(frames)
    return {name: None if scores[name] is None else round(scores[name], 4) for name in ("mAP_present", "NDS_present")}
