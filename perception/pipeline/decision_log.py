"""Writes down what a live run decides, as it is decided."""

from collections.abc import Callable

from perception.config.schema import ServiceConfig
from perception.core.bundle import DropCause, SensorBundle
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, Source, TieredEngine
from perception.core.stages import ModelInfo
from perception.formats.mcap_decisions import (
    VERSION,
    BundleRecord,
    DecisionRecord,
    EndRecord,
    JumpRecord,
    ModelRecord,
    PassedRecord,
    RunRecord,
)
from perception.pipeline.completion import Outcome
from perception.pipeline.deadlines import Fate
from perception.pipeline.frames import Draft

Note = Callable[[DecisionRecord], None]

DECIDING = ("model", "sync", "tracker", "health", "deadline", "ladder", "publish")
"""Sections of the settings that results depend on."""


class DecisionLog:
    """Writes down what is decided. `note` is called from two threads."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def begin(
        self,
        source: Source,
        run_id: str,
        engine: Engine,
        config: ServiceConfig,
        start_s: float,
        duration_s: float | None,
    ) -> None:
        settings = config.model_dump(mode="json", include=set(DECIDING))
        self._note(
            DecisionRecord(
                run=RunRecord(
                    version=VERSION,
                    drive_id=source.drive_id,
                    run_id=run_id,
                    calibration_hash=source.rig.calibration_hash(),
                    models=[ModelRecord(name=info.name, hash=info.hash) for info in models_of(engine)],
                    settings=settings,
                    start_s=start_s,
                    duration_s=duration_s,
                )
            )
        )

    def passed(self, message: int) -> None:
        self._note(DecisionRecord(passed=PassedRecord(message=message)))

    def jumped(self, number: int, message: AnyMessage) -> None:
        self._note(
            DecisionRecord(
                jump=JumpRecord(
                    message=number,
                    sensor=message.sensor,
                    capture_ns=message.capture_ns,
                    arrival_ns=message.arrival_ns,
                )
            )
        )

    def dropped(self, draft: Draft, cause: DropCause, *, turn: int, at_message: int) -> None:
        bundle = draft.bundle
        self._note(
            DecisionRecord(
                bundle=BundleRecord(
                    bundle=bundle.sequence,
                    reference_ns=bundle.reference_ns,
                    hits=hits_of(bundle),
                    turn=turn,
                    at_message=at_message,
                    fate=Fate(cause.value).value,
                )
            )
        )

    def outcome(self, outcome: Outcome) -> None:
        frame = outcome.frame
        self._note(
            DecisionRecord(
                bundle=BundleRecord(
                    bundle=frame.bundle.sequence,
                    reference_ns=frame.bundle.reference_ns,
                    hits=hits_of(frame.bundle),
                    turn=frame.turn,
                    at_message=frame.at_message,
                    fate=outcome.fate.value,
                    level=frame.rung.level,
                    change=frame.change,
                    sequence=outcome.sequence,
                    published_drive_ns=outcome.published_at,
                    base=outcome.base,
                )
            )
        )

    def end(self, messages: int, reason: str) -> None:
        self._note(DecisionRecord(end=EndRecord(messages=messages, reason=reason)))


def models_of(engine: Engine) -> tuple[ModelInfo, ...]:
    """The full model first."""
    return tuple(tier.model for tier in engine.tiers) if isinstance(engine, TieredEngine) else (engine.model,)


def hits_of(bundle: SensorBundle) -> dict[str, int]:
    return {sensor: stamp.capture_ns for sensor, stamp in sorted(bundle.hits.items())}
