"""What comes back from the engine as results: tracks, deadlines, prediction, and the account of each."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause
from perception.core.errors import PayloadError
from perception.core.motion import EgoMotion, MotionSource, relative_motion
from perception.core.ports import Clock
from perception.core.prediction import move_detections, move_hints, predict
from perception.core.results import NO_TRACK, Detections, PathHints, PerceptionResult, Provenance, SensorStatus
from perception.core.stages import FusionOutput, ModelInfo
from perception.models.tracker import Tracker
from perception.pipeline.account import Ledger
from perception.pipeline.deadlines import Deadlines, Fate
from perception.pipeline.frames import Frame, absent
from perception.pipeline.session_state import SessionState

F64 = NDArray[np.float64]

MAX_IN_FLIGHT = 64
"""The most frames that can be under way, hence how far back a degraded result may have to look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Step:
    """What was known after so many steps of the tracker: tracked detections and path hints at the time of `motion`."""

    steps: int
    motion: EgoMotion
    detections: Detections
    hints: PathHints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of a frame. base: steps of the tracker that a degraded result rests on."""

    frame: Frame
    fate: Fate
    published_at: int
    sequence: int | None
    base: int | None


class Completion:
    """Turns frames, in their order, into results, each numbered as it is published.

    `apply` takes what fusion said of a frame; `degrade` makes its result of earlier ones, before `apply`.
    on_outcome: told of each frame once its fate is known.
    """

    def __init__(
        self,
        *,
        drive_id: str,
        run_id: str,
        calibration_hash: str,
        placement: str,
        config: ServiceConfig,
        clock: Clock,
        deadlines: Deadlines,
        ledger: Ledger,
        strict: bool,
    ) -> None:
        self._drive_id = drive_id
        self._run_id = run_id
        self._calibration_hash = calibration_hash
        self._placement = placement
        self._predicts = config.publish.predict_to == "publication"
        self._clock = clock
        self._deadlines = deadlines
        self._ledger = ledger
        self._strict = strict
        self._tracker_config = config.tracker
        self._tracker = Tracker(config.tracker)
        self._previous: EgoMotion | None = None
        self._steps = 0
        self._history: deque[_Step] = deque(maxlen=MAX_IN_FLIGHT + 1)
        self._sequence = 0
        self._carried: list[tuple[int, Counter[str], str]] = []
        self._degraded: set[int] = set()
        self.on_outcome: Callable[[Outcome], None] = lambda _: None

    def is_degraded(self, frame: Frame) -> bool:
        """Whether `degrade` was called for a frame, and `apply` not yet."""
        return frame.bundle.sequence in self._degraded

    def degrade_in_s(self, frame: Frame, *, is_next: bool, is_ready: bool) -> float | None:
        """Wall time until `degrade` is to be called for a frame; None where it is not."""
        return self._deadlines.degrade_in_s(frame.bundle, is_next=is_next, is_ready=is_ready)

    def degrade(self, frame: Frame) -> PerceptionResult:
        """A result in time: what earlier results say of the frame's reference time."""
        base = self._deadlines.base(frame.bundle, self._steps)
        known = next((step for step in reversed(self._history) if step.steps == base), None)
        detections, hints = _carried_on(known, frame.motion)
        at_ns = self._deadlines.published_at(frame.bundle)
        latency = {"since_last_message": monotonic_ns() - frame.draft.received_ns}
        status = tuple(map(absent, frame.status))
        result = self._result(frame, detections, hints, status, latency, at_ns, base, frame.model)
        self._degraded.add(frame.bundle.sequence)
        self._ledger.degraded(frame.bundle)
        self.on_outcome(
            Outcome(frame=frame, fate=Fate.DEGRADED, published_at=at_ns, sequence=result.sequence, base=base)
        )
        return replace(result, degraded=True)

    def apply(self, frame: Frame, output: FusionOutput) -> PerceptionResult | None:
        """Step the tracker by what fusion said; the result, None where it is not published (or was `degrade`d).

        Raises PayloadError with `strict` where something could not be encoded.
        """
        if self._strict and output.failures:
            raise PayloadError("; ".join(f"{sensor}: {error}" for sensor, error in output.failures.items()))
        started_ns = monotonic_ns()
        detections = self._step(frame, output)
        finished_ns = monotonic_ns()
        failed = _failed(output)
        if self.is_degraded(frame):
            self._degraded.discard(frame.bundle.sequence)
            self._carried.append((self._steps, failed, ""))
            return None
        at_ns = self._deadlines.published_at(frame.bundle)
        if self._deadlines.is_dropped(frame.bundle, at_ns):
            lost = frame.dropped + failed + Counter({DropCause.DEADLINE.value: 1})
            self._carried.append((self._steps, lost, frame.change))
            self._ledger.discarded(frame.bundle, DropCause.DEADLINE)
            self.on_outcome(Outcome(frame=frame, fate=Fate.DEADLINE, published_at=at_ns, sequence=None, base=None))
            return None
        self._carried.append((self._steps, failed, ""))
        latency = {
            **output.stage_latency_ns,
            "tracking": finished_ns - started_ns,
            "since_last_message": finished_ns - frame.draft.received_ns,
        }
        status = tuple(_mark_failed(one, output) for one in frame.status)
        result = self._result(
            frame, detections, output.path_hints, status, latency, at_ns, self._steps, output.model or frame.model
        )
        provenance = replace(result.provenance, restarts=output.restarts, quarantined=output.quarantined)
        result = replace(result, provenance=provenance)
        self._ledger.published(frame.bundle, _unused(frame, output))
        self.on_outcome(
            Outcome(frame=frame, fate=Fate.PUBLISHED, published_at=at_ns, sequence=result.sequence, base=None)
        )
        return result

    def pass_by(self, frame: Frame) -> None:
        """A frame whose result an earlier process published, before the run was gone on with."""
        self._sequence += 1
        self._ledger.published(frame.bundle, {})

    @property
    def state(self) -> SessionState:
        """What another process needs to go on after the last result."""
        previous = self._previous
        return SessionState(
            tracker=self._tracker.state,
            reference_ns=previous.reference_ns if previous else None,
            world_SE3_ego=previous.world_SE3_ego if previous else None,
        )

    def restore(self, state: SessionState, sequence: int) -> None:
        """Go on from `state`; `sequence` is the number of the first result."""
        self._tracker = Tracker(self._tracker_config, state.tracker)
        self._previous = state.previous_motion()
        self._sequence = sequence

    @property
    def undelivered(self) -> Counter[str]:
        """Losses that no result has reported yet."""
        return sum((dropped for _, dropped, _ in self._carried), Counter[str]())

    def _step(self, frame: Frame, output: FusionOutput) -> Detections:
        moved = self._moved_since_last(frame.motion)
        detections = self._tracker.step(output.detections, frame.bundle.reference_ns, moved)
        self._previous = frame.motion
        self._steps += 1
        self._history.append(
            _Step(
                steps=self._steps,
                motion=frame.motion,
                detections=detections.rows(detections.track_id != NO_TRACK),
                hints=output.path_hints,
            )
        )
        return detections

    def _result(
        self,
        frame: Frame,
        detections: Detections,
        hints: PathHints,
        status: tuple[SensorStatus, ...],
        latency_ns: Mapping[str, int],
        at_ns: int,
        base: int,
        info: ModelInfo,
    ) -> PerceptionResult:
        dropped, change = self._take_carried(base)
        dropped += frame.dropped
        motion = frame.motion
        is_known = motion.source is not MotionSource.NONE
        vx, vy = motion.velocity_mps.tolist()
        result = PerceptionResult(
            drive_id=self._drive_id,
            run_id=self._run_id,
            sequence=self._sequence,
            reference_ns=frame.bundle.reference_ns,
            published_ns=self._clock.now_ns(),
            detections=detections,
            path_hints=hints,
            sensors=status,
            world_SE3_ego=motion.world_SE3_ego,
            ego_velocity_mps=(vx, vy) if is_known else None,
            ego_yaw_rate_radps=motion.yaw_rate_radps,
            published_drive_ns=at_ns,
            provenance=Provenance(
                model=info.name,
                model_hash=info.hash,
                trained=info.trained,
                calibration_hash=self._calibration_hash,
                ego_motion=motion.source,
                placement=self._placement,
                deadline_slack_ns=frame.bundle.slack_ns,
                stage_latency_ns=latency_ns,
                dropped={cause: count for cause, count in sorted(dropped.items()) if count},
                publication_slack_ns=self._deadlines.slack_ns(frame.bundle, at_ns),
                ladder_level=frame.rung.level,
                ladder_rung=frame.rung.text,
                ladder_change="; ".join(filter(None, (change, frame.change))),
            ),
        )
        self._sequence += 1
        return predict(result, at_ns) if self._predicts else result

    def _take_carried(self, base: int) -> tuple[Counter[str], str]:
        """What was lost, and why the rung changed, with frames up to step `base` that could not say so themselves."""
        due = [(dropped, change) for step, dropped, change in self._carried if step <= base]
        self._carried = [one for one in self._carried if one[0] > base]
        dropped = sum((dropped for dropped, _ in due), Counter[str]())
        return dropped, "; ".join(change for _, change in due if change)

    def _moved_since_last(self, motion: EgoMotion) -> F64:
        """current_SE3_previous between two results; where the data's clock jumped back, tracks start afresh."""
        previous = self._previous
        if previous is None:
            return np.eye(4)
        if motion.reference_ns <= previous.reference_ns:
            self._tracker.reset()
            return np.eye(4)
        return relative_motion(previous, motion)


def _carried_on(known: _Step | None, motion: EgoMotion) -> tuple[Detections, PathHints]:
    """What was known, as it should be at the time of `motion`; nothing where nothing was."""
    if known is None or motion.reference_ns <= known.motion.reference_ns:
        none = np.zeros(0, dtype=np.float32)
        return Detections.empty(), PathHints(
            confidence=none, waypoints_m=np.zeros((0, 0, 2), dtype=np.float32), times_s=none, target_speed_mps=0.0
        )
    moved = relative_motion(known.motion, motion)
    duration_s = (motion.reference_ns - known.motion.reference_ns) / 1e9
    return move_detections(known.detections, moved, duration_s), move_hints(known.hints, moved, duration_s)


def _failed(output: FusionOutput) -> Counter[str]:
    """What could not be encoded, by cause."""
    aside = len(output.quarantined)
    return Counter({DropCause.UNREADABLE.value: len(output.failures) - aside, DropCause.QUARANTINED.value: aside})


def _unused(frame: Frame, output: FusionOutput) -> dict[str, DropCause]:
    """Sensors of a bundle that its result does not rest on, and why."""
    unused = dict.fromkeys(frame.draft.masked, DropCause.MASKED) | dict.fromkeys(frame.left_out, DropCause.LEFT_OUT)
    for sensor in output.failures:
        if sensor in frame.bundle.hits:
            is_aside = sensor in output.quarantined
            unused[sensor] = DropCause.QUARANTINED if is_aside else DropCause.UNREADABLE
    return unused


def _mark_failed(status: SensorStatus, output: FusionOutput) -> SensorStatus:
    if status.name not in output.failures:
        return status
    return replace(status, present=False, age_ns=None, valid=False)
