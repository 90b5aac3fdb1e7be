"""The service's log: one JSON object a line, with vehicle, drive, run and sequence where there are any."""

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Final

from perception.config.serving import LogConfig
from perception.core.errors import ConfigError, PerceptionError
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.stages import ModelInfo
from perception.pipeline.replay import RunSummary
from perception.runtime.service_tiers import Tier
from perception.runtime.service_watch import VehicleState, Watcher

FIELDS: Final = "perception_fields"
"""Attribute of a log record that holds what goes beside its message."""

logger = logging.getLogger("perception.service")


class JsonFormatter(logging.Formatter):
    """`time` (UTC), `level`, `logger`, `message`, the fields of the record, and `error` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, message, fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, FIELDS, {}).items())
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")
        text = f"{moment} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logging(config: LogConfig) -> logging.Handler:
    """Send the log of this process where `config` says; `logging.getLogger().removeHandler` undoes it.

    Raises ConfigError where the file cannot be written.
    """
    try:
        handler: logging.Handler = (
            logging.StreamHandler(sys.stderr) if config.file is None else WatchedFileHandler(config.file)
        )
    except OSError as error:
        raise ConfigError(f"logs.file: {config.file} cannot be written ({error.strerror})") from None
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells of its own comings and goings
    logger.setLevel(config.level.upper())
    return handler


def log(level: int, message: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """One line of the service's log. fields: beside the message, named as elsewhere (`vehicle`, `drive_id`)."""
    logger.log(level, message, exc_info=exc_info, extra={FIELDS: fields})


class ServiceLog(Watcher):
    """Writes down what happens to vehicles: states, runs, losses; with level `debug` every result."""

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}
        self._faults: dict[tuple[str, str], frozenset[str]] = {}

    def state(self, vehicle: str, state: VehicleState) -> None:
        log(logging.DEBUG, f"vehicle is {state.value}", vehicle=vehicle, state=state.value)

    def opened(self, vehicle: str, source: Source) -> None:
        sensors = [sensor.name for sensor in source.rig.sensors]
        log(
            logging.INFO,
            "source opened",
            vehicle=vehicle,
            drive_id=source.drive_id,
            sensors=sensors,
            calibration_hash=source.rig.calibration_hash(),
            notes=list(source.notes),
        )

    def result(self, vehicle: str, result: PerceptionResult) -> None:
        where: dict[str, Any] = {
            "vehicle": vehicle,
            "drive_id": result.drive_id,
            "run_id": result.run_id,
            "sequence": result.sequence,
        }
        if self._runs.get(vehicle) != result.run_id:
            self._runs[vehicle] = result.run_id
            log(logging.INFO, "run began", **where, model_hash=result.provenance.model_hash)
        self._tell_faults(where, result)
        if logger.isEnabledFor(logging.DEBUG):
            log(
                logging.DEBUG,
                "result",
                **where,
                reference_ns=result.reference_ns,
                detections=len(result.detections),
                dropped=dict(result.provenance.dropped),
                latency_ns=dict(result.provenance.stage_latency_ns),
            )

    def _tell_faults(self, where: dict[str, Any], result: PerceptionResult) -> None:
        """A line when what is wrong with a sensor changes."""
        for status in result.sensors:
            key = (where["vehicle"], status.name)
            now = frozenset(fault.kind for fault in status.faults)
            if now != self._faults.get(key, frozenset()):
                self._faults[key] = now
                details = [f"{fault.kind}: {fault.detail}" for fault in status.faults]
                level, text = (logging.WARNING, "sensor is faulty") if now else (logging.INFO, "sensor is sound again")
                log(level, text, **where, sensor=status.name, faults=details)

    def ended(self, vehicle: str, summary: RunSummary) -> None:
        end = summary.end
        log(
            logging.INFO,
            "run ended",
            vehicle=vehicle,
            drive_id=end.drive_id,
            run_id=end.run_id,
            results=end.count,
            reason=end.reason,
            messages=summary.messages,
            dropped=dict(summary.dropped),
        )

    def failed(self, vehicle: str, error: Exception, pause_s: float) -> None:
        known = isinstance(error, PerceptionError)
        log(
            logging.WARNING if known else logging.ERROR,
            f"vehicle failed: {error}",
            exc_info=None if known else error,
            vehicle=vehicle,
            run_id=self._runs.get(vehicle),
            error=type(error).__name__,
            again_in_s=pause_s,
        )

    def model(self, info: ModelInfo, placement: str, tier: Tier) -> None:
        log(
            logging.INFO,
            "model is ready",
            model=info.name,
            model_hash=info.hash,
            trained=info.trained,
            placement=placement,
            tier=tier,
        )
