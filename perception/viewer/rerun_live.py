"""Shows a queue as it goes: results as they come, and what the sensors saw where that is on a channel beside them."""

import logging
import threading
from collections.abc import Callable, Iterable

from perception.core.errors import QueueError
from perception.core.ports import QueueItem
from perception.core.results import PerceptionResult
from perception.queues.subscription import Feed
from perception.viewer.live_scenes import SceneJoiner
from perception.viewer.rerun_scene import SceneLog
from perception.viewer.scene_wire import decode_scene
from perception.viewer.scenes import Scene

TICK_S = 0.2

logger = logging.getLogger(__name__)

OnCameras = Callable[[tuple[str, ...]], None]


class LiveView:
    """Writes what comes into `log`. on_cameras: called when images of other cameras come than before."""

    def __init__(self, log: SceneLog, on_cameras: OnCameras) -> None:
        self._log = log
        self._on_cameras = on_cameras
        self._cameras: tuple[str, ...] = ()
        self._joiner = SceneJoiner()
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def show(self, items: Iterable[QueueItem], feed: Feed | None) -> None:
        """Until the items end. `feed` carries the sensors; it is read in a thread. Raises what the items raise."""
        reader = threading.Thread(target=self._read, args=(feed,), name="view-sensors", daemon=True)
        if feed is not None:
            reader.start()
        try:
            for item in items:
                if isinstance(item, PerceptionResult):
                    self._result(item)
        finally:
            self._is_over.set()
            if feed is not None:
                reader.join()

    def _result(self, result: PerceptionResult) -> None:
        whole = self._joiner.result(result)
        with self._lock:
            self._log.result(result)
        if whole is not None:
            self._sensors(whole)

    def _read(self, feed: Feed) -> None:
        """Take sensors until the results have ended and nothing more has come."""
        while (delivery := feed.receive(TICK_S)) is not None or not self._is_over.is_set():
            if delivery is None:
                continue
            try:
                run_id, scene = decode_scene(delivery.payload)
            except QueueError as error:
                logger.warning("skipped: %s", error)
                continue
            whole = self._joiner.sensors(run_id, scene)
            if whole is not None:
                self._sensors(whole)

    def _sensors(self, scene: Scene) -> None:
        names = tuple(view.sensor for view, _ in scene.cameras)
        with self._lock:
            if not set(names) <= set(self._cameras):
                self._cameras = tuple(dict.fromkeys((*self._cameras, *names)))
                self._on_cameras(self._cameras)
            self._log.sensors(scene)
