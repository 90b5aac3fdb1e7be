"""Sensors beside the results: published for each result, and put together again where they are shown."""

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Protocol, TypeVar

from perception.core.labels import Labels
from perception.core.ports import Recorded, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.viewer.scene_wire import encode_scene
from perception.viewer.scenes import Scene, SceneComposer

T = TypeVar("T")

KEPT = 64
"""Results, or scenes, that wait for their other half."""


class Sender(Protocol):
    def send(self, payload: bytes) -> None: ...

    def has_consumer(self) -> bool: ...

    def close(self) -> None: ...


class SensorPublisher:
    """A recorder that sends what each result was made of, while somebody looks. Takes over `channel`."""

    def __init__(self, source: Source, channel: Sender) -> None:
        self._composer = SceneComposer(source)
        self._channel = channel

    def write(self, item: Recorded) -> None:
        """Remember a message, send the sensors of a result."""
        if isinstance(item, PerceptionResult):
            if self._channel.has_consumer():
                self._channel.send(encode_scene(self._composer.compose(item), item.run_id))
        elif not isinstance(item, Labels | EndOfRun):
            self._composer.observe(item)

    def close(self) -> None:
        self._channel.close()


class SceneJoiner:
    """Brings results and scenes together that come on their own, in whatever order, from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[str, int], PerceptionResult] = OrderedDict()
        self._scenes: OrderedDict[tuple[str, int], Scene] = OrderedDict()

    def result(self, result: PerceptionResult) -> Scene | None:
        """The whole scene, if its sensors were there first."""
        key = (result.run_id, result.sequence)
        with self._lock:
            scene = self._scenes.pop(key, None)
            if scene is None:
                _keep(self._results, key, result)
        return None if scene is None else replace(scene, result=result)

    def sensors(self, run_id: str, scene: Scene) -> Scene | None:
        """The whole scene, if its result was there first."""
        key = (run_id, scene.sequence)
        with self._lock:
            result = self._results.pop(key, None)
            if result is None:
                _keep(self._scenes, key, scene)
        return None if result is None else replace(scene, result=result)


def _keep(waiting: "OrderedDict[tuple[str, int], T]", key: tuple[str, int], item: T) -> None:
    waiting[key] = item
    if len(waiting) > KEPT:
        waiting.popitem(last=False)
