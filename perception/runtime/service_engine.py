"""One engine for all vehicles: each has a view of it, and the model is replaced between two frames, without a gap.

Features belong to the engine that made them. A frame is fused by the newest engine; features of it that an older one
made are made again, so no frame is lost or mixes two models. The older engine is closed when its last frame is done.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic_ns
from typing import Final

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError, ModelError, UsageError
from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.core.supervision import SupervisionState
from perception.runtime.service_pools import EnginePool, StartPool

OnFused = Callable[[FuseRequest, FusionOutput, int], None]
"""Called with what was asked, what came of it, and the monotonic time at which it was asked."""

UNSUPERVISED: Final = SupervisionState(restarts={}, hung=0, quarantined=0, recovering=(), last_outage_s=None, pids={})

logger = logging.getLogger(__name__)


class NotNowError(UsageError):
    """What was asked for may be right later."""


class SharedEngine:
    """The pool that `start` makes of a model; `replace_model` puts another in its place. Thread-safe."""

    def __init__(self, start: StartPool, model: ModelChoice) -> None:
        self._start = start
        self._choice = model
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._current = _Generation(start(model))
        self.loads = 1
        """Engines started so far."""

    @property
    def placement(self) -> str:
        return self._current.pool.placement

    @property
    def model(self) -> ModelInfo:
        return self._current.model

    @property
    def is_broken(self) -> bool:
        return self._current.is_broken

    def supervision(self) -> SupervisionState | None:
        """What the engine says of its processes; None where it has none. Begins anew with another model."""
        return self._current.pool.supervision()

    def view(self, name: str, on_fused: OnFused | None = None) -> "VehicleEngine":
        """The engine as one vehicle sees it."""
        return VehicleEngine(self, name, on_fused)

    def replace_model(self, choice: ModelChoice, *, timeout_s: float) -> ModelInfo:
        """Load a model beside the one that runs, let it take over, and close the old engine once it is idle.

        Raises ModelError or EngineError where it cannot be loaded (the old one goes on), NotNowError at once while
        another is being loaded.
        """
        if not self._loading.acquire(blocking=False):
            raise NotNowError("another model is being loaded; try again when it is there")
        try:
            return self._load(choice, timeout_s)
        finally:
            self._loading.release()

    def mend(self, *, timeout_s: float) -> bool:
        """Start the engine anew if it broke; whether it had to be. Raises what starting it raises."""
        if not self.is_broken:  # nothing to wait for while a model is being loaded
            return False
        with self._loading:
            if not self._current.is_broken:  # another vehicle was quicker
                return False
            self._load(self._choice, timeout_s)
            return True

    def close(self) -> None:
        """Close the engine; a model that is being loaded is waited for."""
        with self._loading:
            self._current.pool.close()

    @contextmanager
    def using(self) -> Iterator["_Generation"]:
        """The newest engine, kept open for the length of the block."""
        generation = self.begin()
        try:
            yield generation
        finally:
            self.end(generation)

    def begin(self) -> "_Generation":
        with self._changed:
            self._current.users += 1
            return self._current

    def end(self, generation: "_Generation") -> None:
        with self._changed:
            generation.users -= 1
            self._changed.notify_all()

    def _load(self, choice: ModelChoice, timeout_s: float) -> ModelInfo:
        fresh = _Generation(self._start(choice))
        if fresh.model.lidar_sweeps != self.model.lidar_sweeps:
            fresh.pool.close()
            raise ModelError(
                f"{choice.name} takes {fresh.model.lidar_sweeps} lidar sweeps at once and the model that runs "
                f"{self.model.lidar_sweeps}; sessions under way cannot change that: restart the service with it"
            )
        with self._changed:
            old, self._current = self._current, fresh
            self._choice = choice
            self.loads += 1
            if not self._changed.wait_for(lambda: old.users == 0 or old.is_broken, timeout_s):
                logger.warning(
                    "the old engine did not finish within %g s; it is closed with frames under way", timeout_s
                )
        old.pool.close()
        return fresh.model


class _Generation:
    """One pool between its start and its replacement. users: calls under way, frames included."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool
        self.model = pool.model
        self.users = 0
        self.is_broken = False

    def note(self, error: BaseException) -> None:
        """An engine that raises its own kind of error has given up; other errors are those of a request."""
        if isinstance(error, EngineError):
            self.is_broken = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Handle:
    """Features, and what they were made of, in case another engine must make them again."""

    key: str
    request: EncodeRequest
    generation: _Generation
    inner: FeatureHandle


class VehicleEngine:
    """A vehicle's view of the shared engine: its keys are its own, and its frames are watched.

    `close` does nothing: the engine is everybody's.
    """

    def __init__(self, shared: SharedEngine, name: str, on_fused: OnFused | None) -> None:
        self._shared = shared
        self._name = name
        self._on_fused = on_fused
        self._numbers = itertools.count()
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def placement(self) -> str:
        return self._shared.placement

    @property
    def model(self) -> ModelInfo:
        return self._shared.model

    @property
    def frames_under_way(self) -> int:
        """Frames that are being fused."""
        return self._under_way

    def supervision(self) -> SupervisionState:
        """Of the shared engine; nothing where it watches over no processes."""
        return self._shared.supervision() or UNSUPERVISED

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        with self._shared.using() as generation:
            try:
                return self._encode(generation, request)
            except EngineError as error:
                generation.note(error)
                raise

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        asked_ns = monotonic_ns()
        generation = self._shared.begin()
        remade: list[_Handle] = []
        try:
            handles = [handle for handle in features if isinstance(handle, _Handle)]
            for place, handle in enumerate(handles):
                if handle.generation is not generation:
                    handles[place] = self._encode(generation, handle.request)
                    remade.append(handles[place])
            engine = generation.pool.engine(self._name)
            inner = engine.fuse(request, [handle.inner for handle in handles])
            if remade:
                engine.release([handle.inner for handle in remade])
        except BaseException as error:
            generation.note(error)
            self._shared.end(generation)
            raise
        return self._watched(request, inner, generation, asked_ns)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._shared.using() as generation:
            # Features of an engine that was replaced went with it.
            own = [h.inner for h in features if isinstance(h, _Handle) and h.generation is generation]
            if own:
                generation.pool.engine(self._name).release(own)

    def rest(self) -> None:
        """The vehicle stops; nothing of it is under way. It may begin again."""
        with self._shared.using() as generation:
            generation.pool.forget(self._name)

    def close(self) -> None:
        """Nothing to close."""

    def _encode(self, generation: _Generation, request: EncodeRequest) -> _Handle:
        own = replace(request, key=f"{self._name}/{next(self._numbers)}/{request.key}")
        inner = generation.pool.engine(self._name).encode(own)
        return _Handle(key=own.key, request=request, generation=generation, inner=inner)

    def _watched(
        self, request: FuseRequest, inner: Future[FusionOutput], generation: _Generation, asked_ns: int
    ) -> Future[FusionOutput]:
        """The output with the model that made it; the engine is free of it before the caller hears of it."""
        outcome: Future[FusionOutput] = Future()
        with self._lock:
            self._under_way += 1

        def done(future: Future[FusionOutput]) -> None:
            with self._lock:
                self._under_way -= 1
            error = future.exception()
            if error is not None:
                generation.note(error)
            self._shared.end(generation)
            if error is not None:
                outcome.set_exception(error)
                return
            output = replace(future.result(), model=generation.model)
            if self._on_fused is not None:
                self._on_fused(request, output, asked_ns)
            outcome.set_result(output)

        inner.add_done_callback(done)
        return outcome
