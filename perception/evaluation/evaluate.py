"""Plays drives one after the other, collects what is to be scored, and scores it: the whole table of an evaluation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.config.evaluation import EvaluatedDrive, EvaluationPlan, RobustnessPlan
from perception.config.schema import ServiceConfig
from perception.core.ports import Engine, Source
from perception.core.rig import Modality, SensorRig
from perception.evaluation.degradations import Degradation, DegradedSource, one_camera
from perception.evaluation.error_costs import error_costs
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.planning import PlannedFrame
from perception.evaluation.recall import operating_points, recall_by_group
from perception.evaluation.run import DriveRun, frames_of, held, planned_frames, run_labelled, streamed
from perception.evaluation.scores import detection_scores, overall_scores, path_scores, spread_ms, tracking_scores
from perception.evaluation.subsets import SUBSETS, subset_name, subsets_of

Tell = Callable[[str], None]
Frames = list[EvaluatedFrame]

CLEAN = "as it is"
MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is done besides detection, tracking and path hints of the whole rig."""

    subsets: bool = True
    streaming: bool = True
    robustness: bool = False


class Evaluator:
    """`add` each drive, then take the `scores`. The engine stays the caller's."""

    def __init__(
        self, engine: Engine, config: ServiceConfig, plan: EvaluationPlan, parts: Parts, tell: Tell | None = None
    ) -> None:
        self._engine, self._config, self._plan, self._parts = engine, config, plan, parts
        self._tell = tell or (lambda _: None)
        self._frames: Frames = []
        self._by_subset: dict[str, Frames] = defaultdict(list)
        self._by_condition: dict[str, Frames] = defaultdict(list)
        self._by_disturbance: dict[str, Frames] = defaultdict(list)
        self._kinds: dict[str, tuple[str, float]] = {}
        self._streamed: dict[str, Frames] = defaultdict(list)
        self._unbegun: Counter[str] = Counter()
        self._planned: list[PlannedFrame] = []
        self._latencies_ns: list[int] = []
        self._drives: list[dict[str, Any]] = []
        self.missing = 0
        self.dropped: Counter[str] = Counter()

    def add(self, source: Source, drive: EvaluatedDrive) -> None:
        """Play a drive in every way that is asked for. Raises DriveError naming it where it has no labels."""
        parts = self._parts
        is_disturbed = parts.robustness and drive.is_disturbed
        subsets = subsets_of(source.rig) if parts.subsets else ()
        run = run_labelled(
            source,
            self._engine,
            self._config,
            subsets=subsets[1:],
            every_sweep=parts.streaming,
            stride=self._plan.stride,
            is_kept=is_disturbed,
        )
        frames = frames_of(run)
        self._frames += frames
        for condition in drive.conditions:
            self._by_condition[condition] += frames
        if subsets:
            self._by_subset[subset_name(subsets[0])] += frames
        for subset, detections in run.masked.items():
            self._by_subset[subset_name(subset)] += frames_of(run, detections)
        if parts.streaming:
            self._add_streamed(run)
        self._planned += planned_frames(run)
        self._latencies_ns += run.latencies_ns
        self._note(run, drive, frames)
        if is_disturbed:
            self._disturb(held(source, run), frames)

    def scores(self) -> dict[str, Any]:
        """Everything as JSON has it. Raises UsageError where no frame was added."""
        plan = self._plan
        self._tell(f"scoring {len(self._frames)} frames")
        report: dict[str, Any] = overall_scores(self._frames)
        report |= {
            "frames": len(self._frames),
            "missing_frames": self.missing,
            "per_subset": {subset_name(s): detection_scores(self._by_subset.get(subset_name(s), [])) for s in SUBSETS}
            if self._parts.subsets
            else None,
            "per_condition": {name: detection_scores(frames) for name, frames in self._by_condition.items()},
            "errors": error_costs(self._frames),
            "operating_points": operating_points(self._frames, plan.clear_score),
            "recall": {"score": plan.clear_score, **recall_by_group(self._frames, plan.clear_score)},
            "tracking": tracking_scores(self._frames, plan.clear_score),
            "planning": path_scores(self._planned),
            "streaming": self._streaming_scores() if self._parts.streaming else None,
            "robustness": self._robustness_scores() if self._by_disturbance else None,
            "latency_ms": spread_ms(self._latencies_ns),
            "drives": self._drives,
        }
        return report

    def _note(self, run: DriveRun, drive: EvaluatedDrive, frames: Frames) -> None:
        labels = sum(len(frame.labels) for frame in frames)
        self._tell(f"{run.drive_id}: {len(frames)} labelled frames, {labels} labels")
        self.missing += run.missing
        self.dropped += run.dropped
        self._drives.append(
            {
                "drive_id": run.drive_id,
                "path": drive.path,
                "conditions": list(drive.conditions),
                "labels": labels,
                "missing_frames": run.missing,
                "dropped": dict(sorted(run.dropped.items())),
                **detection_scores(frames),
            }
        )

    def _add_streamed(self, run: DriveRun) -> None:
        asked: list[tuple[str, int | None]] = [(MEASURED, None)]
        asked += [(f"{latency:g}", round(latency * 1e6)) for latency in self._plan.latencies_ms]
        for name, latency_ns in asked:
            frames, unbegun = streamed(run, latency_ns=latency_ns)
            self._streamed[name] += frames
            self._unbegun[name] += unbegun
        self._streamed["not moved"] += streamed(run, is_moved=False)[0]
        self._streamed["predicted"] += streamed(run, is_predicted=True)[0]

    def _streaming_scores(self) -> dict[str, Any]:
        """At the measured latency, moved on to the ground-truth time and as it is; then by assumed latency in ms."""
        return {
            MEASURED: {**detection_scores(self._streamed[MEASURED]), "dropped": self._unbegun[MEASURED]},
            "measured_not_moved": detection_scores(self._streamed["not moved"]),
            "measured_predicted": detection_scores(self._streamed["predicted"]),
            "by_latency_ms": {
                f"{latency:g}": {
                    **detection_scores(self._streamed[f"{latency:g}"]),
                    "dropped": self._unbegun[f"{latency:g}"],
                }
                for latency in self._plan.latencies_ms
            },
        }

    def _disturb(self, source: Source, clean: Frames) -> None:
        plan = self._plan.robustness
        step = plan.stride
        self._by_disturbance[CLEAN] += clean[::step]
        self._kinds[CLEAN] = ("none", 0.0)
        for index, (kind, strength, degradation) in enumerate(disturbances(plan, source.rig)):
            rng = np.random.default_rng([self._plan.seed, len(self._drives), index])
            if kind == "lost camera":
                degradation = Degradation(name=degradation.name, lost=one_camera(source.rig, rng))
            worse = DegradedSource(source, degradation, rng)
            run = run_labelled(worse, self._engine, self._config, stride=step)
            self._by_disturbance[degradation.name] += frames_of(run)
            self._kinds[degradation.name] = (kind, strength)
            self._tell(f"  {degradation.name}: {len(run.results)} results")

    def _robustness_scores(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "kind": self._kinds[name][0],
                "strength": self._kinds[name][1],
                **detection_scores(frames),
            }
            for name, frames in self._by_disturbance.items()
        ]


def disturbances(plan: RobustnessPlan, rig: SensorRig) -> Iterator[tuple[str, float, Degradation]]:
    """Kind, strength and what is done, for everything of the plan that a rig can suffer."""
    own: Sequence[Modality] = [modality for modality in Modality if rig.of(modality)]
    for share in plan.drop_probability:
        yield "dropped frames", share, Degradation(name=f"{share:.0%} of frames dropped", drop_probability=share)
    for angle in plan.extrinsic_deg:
        yield "mounts", angle, Degradation(name=f"mounts turned {angle:g} deg", extrinsic_rad=float(np.radians(angle)))
    for modality in own:
        only = frozenset({modality})
        for seconds in plan.frozen_s:
            name, past_ns = f"{modality.value} frozen {seconds:g} s", round(seconds * 1e9)
            yield f"{modality.value} frozen", seconds, Degradation(name=name, stale=only, frozen_ns=past_ns)
        for seconds in plan.delay_s:
            name, late_ns = f"{modality.value} {seconds:g} s late", round(seconds * 1e9)
            yield f"{modality.value} late", seconds, Degradation(name=name, stale=only, delay_ns=late_ns)
    if plan.lost_cameras and Modality.CAMERA in own:
        yield "lost camera", 1.0, Degradation(name="one camera lost")
