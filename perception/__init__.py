"""Streaming sensor fusion for autonomous driving.

The names below are the public face; everything else may change. They are imported when first used, so that a consumer
does not load what only the service needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception.config.load import load_service_config
    from perception.core.errors import PerceptionError
    from perception.core.labels import Labels
    from perception.core.prediction import predict
    from perception.core.results import Detection, Detections, EndOfRun, PathHints, PerceptionResult
    from perception.core.rig import SensorRig
    from perception.queues.open import open_queue, subscribe
    from perception.sources.open import open_drive

_HOME = {
    "Detection": "perception.core.results",
    "Detections": "perception.core.results",
    "EndOfRun": "perception.core.results",
    "Labels": "perception.core.labels",
    "PathHints": "perception.core.results",
    "PerceptionError": "perception.core.errors",
    "PerceptionResult": "perception.core.results",
    "SensorRig": "perception.core.rig",
    "load_service_config": "perception.config.load",
    "open_drive": "perception.sources.open",
    "open_queue": "perception.queues.open",
    "predict": "perception.core.prediction",
    "subscribe": "perception.queues.open",
}

__all__ = [
    "Detection",
    "Detections",
    "EndOfRun",
    "Labels",
    "PathHints",
    "PerceptionError",
    "PerceptionResult",
    "SensorRig",
    "load_service_config",
    "open_drive",
    "open_queue",
    "predict",
    "subscribe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'perception' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
