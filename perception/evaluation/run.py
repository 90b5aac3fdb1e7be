"""One labelled drive through the service, and what came of it: frames to score, paths with their truth, latencies."""

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perception.config.schema import ServiceConfig
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, Source
from perception.core.results import Detections, PerceptionResult
from perception.core.stages import FuseRequest
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.planning import PlannedFrame
from perception.evaluation.streaming import TimedResult, finish_times, streamed_frames
from perception.evaluation.subsets import ObservedEngine, Subset
from perception.evaluation.truth import DriveTruth, TruthCollector
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.sources.memory import MemorySource

Progress = Callable[[PerceptionResult], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriveRun:
    """What the service said of one drive and what was true.

    evaluated_ns: the reference times that are scored, those with labels. detections: of the whole rig and of each
    subset, by reference time. messages: those of the drive, where they were to be kept.
    """

    drive_id: str
    evaluated_ns: tuple[int, ...]
    results: tuple[PerceptionResult, ...]
    masked: Mapping[Subset, Mapping[int, Detections]]
    requests: Mapping[int, FuseRequest]
    ready_ns: Mapping[int, int]
    truth: DriveTruth
    dropped: Counter[str]
    messages: tuple[AnyMessage, ...] = ()

    @property
    def detections(self) -> dict[int, Detections]:
        return {result.reference_ns: result.detections for result in self.results}

    @property
    def missing(self) -> int:
        """Labelled times for which no result came: they count as frames in which nothing was found."""
        return len(set(self.evaluated_ns) - {result.reference_ns for result in self.results})

    @property
    def latencies_ns(self) -> list[int]:
        """Of each result, from its last message's arrival to the end of tracking."""
        return [_latency_ns(result) for result in self.results]


def run_labelled(
    source: Source,
    engine: Engine,
    config: ServiceConfig,
    *,
    subsets: Sequence[Subset] = (),
    every_sweep: bool = False,
    stride: int = 1,
    is_kept: bool = False,
    on_result: Progress | None = None,
) -> DriveRun:
    """Play a drive through the service in this process.

    subsets: fuse these as well. every_sweep: give a result for every sweep, not only for labelled ones. stride: of the
    labelled times use every so manieth. is_kept: hold the messages, so that `held` can play them again.
    Raises DriveError naming the drive where it has no labels, KeyboardInterrupt where the user stopped it.
    """
    times = source.label_times_ns[::stride]
    collector = TruthCollector(source, times)
    observed = ObservedEngine(engine, subsets, frozenset(times))
    results: list[PerceptionResult] = []
    messages: list[AnyMessage] = []

    def watch(message: AnyMessage) -> None:
        observed.now_ns = message.arrival_ns
        collector.observe(message)
        if is_kept:
            messages.append(message)

    def collect(result: PerceptionResult) -> None:
        results.append(result)
        if on_result is not None:
            on_result(result)

    reference = "sweeps" if every_sweep else "keyframes"
    summary = run_drive(
        source,
        observed,
        config.model_copy(update={"sync": config.sync.model_copy(update={"reference": reference})}),
        run_id=f"evaluation-{secrets.token_hex(3)}",
        on_result=collect,
        on_message=watch,
        options=ReplayOptions(),
        reference_times=frozenset(times),
    )
    if summary.end.reason != "completed":
        raise KeyboardInterrupt  # a drive cut short must not be scored as if it were whole
    truth = collector.finish()
    return DriveRun(
        drive_id=source.drive_id,
        evaluated_ns=tuple(sorted(truth.labels)),
        results=tuple(results),
        masked=observed.masked(config.runtime.result_timeout_s),
        requests=observed.requests,
        ready_ns=observed.ready_ns,
        truth=truth,
        dropped=summary.dropped,
        messages=tuple(messages),
    )


def held(source: Source, run: DriveRun) -> MemorySource:
    """The drive of a run whose messages were kept, to be played again; labelled where the run was scored."""
    return MemorySource(source.rig, run.messages, run.truth.labels, drive_id=source.drive_id, notes=source.notes)


def frames_of(run: DriveRun, detections: Mapping[int, Detections] | None = None) -> list[EvaluatedFrame]:
    """A frame for every labelled time; `detections` in place of the run's own. Without a result nothing was found."""
    found = run.detections if detections is None else detections
    return [
        EvaluatedFrame(
            drive_id=run.drive_id,
            reference_ns=time,
            detections=found.get(time, Detections.empty()),
            labels=run.truth.labels[time],
            world_SE3_ego=run.truth.poses.pose_at(time),
        )
        for time in run.evaluated_ns
    ]


def planned_frames(run: DriveRun) -> list[PlannedFrame]:
    """Path hints of the labelled times, with where the ego went and what stood there."""
    frames = []
    scored = set(run.evaluated_ns)
    for result in run.results:
        if result.reference_ns in scored:
            waypoints, is_known = run.truth.path_at(result.reference_ns)
            request = run.requests[result.reference_ns]
            frames.append(
                PlannedFrame(
                    drive_id=run.drive_id,
                    reference_ns=result.reference_ns,
                    hints=result.path_hints,
                    truth_m=waypoints,
                    is_known=is_known,
                    boxes=run.truth.boxes_at(result.reference_ns),
                    speed_mps=request.speed_mps,
                    yaw_rate_radps=request.yaw_rate_radps,
                )
            )
    return frames


def streamed(
    run: DriveRun, *, latency_ns: int | None = None, is_moved: bool = True, is_predicted: bool = False
) -> tuple[list[EvaluatedFrame], int]:
    """The frames as a consumer has them at each labelled time, and how many results were never begun.

    One worker does a frame after the other, newest first; each takes what it took in this run, or `latency_ns`.
    is_moved: carried on to the labelled time; is_predicted: by what the result itself says of the ego's motion, as
    `perception.predict` does, not by where the ego really went.
    """
    results = [result for result in run.results if result.reference_ns in run.ready_ns]
    ready = [run.ready_ns[result.reference_ns] for result in results]
    taken = [_latency_ns(result) if latency_ns is None else latency_ns for result in results]
    finished = finish_times(ready, taken)
    timed = [
        TimedResult(
            reference_ns=result.reference_ns,
            finish_ns=finish,
            detections=result.detections,
            world_SE3_ego=run.truth.poses.pose_at(result.reference_ns),
            predicted_from=result if is_predicted else None,
        )
        for result, finish in zip(results, finished.tolist(), strict=True)
    ]
    labels = [run.truth.labels[time] for time in run.evaluated_ns]
    frames = streamed_frames(run.drive_id, timed, labels, pose_at=run.truth.poses.pose_at, is_moved=is_moved)
    return frames, sum(one.finish_ns < 0 for one in timed)


def _latency_ns(result: PerceptionResult) -> int:
    stages = result.provenance.stage_latency_ns
    return stages.get("model_since_last_message", 0) + stages["tracking"]
