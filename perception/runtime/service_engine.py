"""One engine for all vehicles: each has a view of it, and the model is replaced between two frames, without a gap.

Features belong to the engine that made them. A frame is fused by the newest engine; features of it that an older one
made are made again, so no frame is lost or mixes two models. The older engine is closed when its last frame is done.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic_ns

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError, UsageError
from perception.core.ports import Engine, FeatureHandle, Supervised
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.core.supervision import SupervisionState

StartEngine = Callable[[ModelChoice], Engine]
OnFused = Callable[[FuseRequest, FusionOutput, int], None]
"""Called with what was asked, what came of it, and the monotonic time at which it was asked."""

logger = logging.getLogger(__name__)


class NotNowError(UsageError):
    """What was asked for may be right later."""


class FairLock:
    """A lock that is granted in the order in which it was asked for, so that no thread waits for another one twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_held = False


class SharedEngine:
    """The engine that `start` makes of a model; `replace_model` puts another in its place. Thread-safe."""

    def __init__(self, start: StartEngine, model: ModelChoice) -> None:
        self._start = start
        self._choice = model
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._current = _Generation(start(model))
        self.loads = 1
        """Engines started so far."""

    @property
    def placement(self) -> str:
        return self._current.engine.placement

    @property
    def model(self) -> ModelInfo:
        return self._current.model

    @property
    def is_broken(self) -> bool:
        return self._current.is_broken

    def supervision(self) -> SupervisionState:
        """What the newest engine says of its processes."""
        engine = self._current.engine
        return engine.supervision() if isinstance(engine, Supervised) else SupervisionState()

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
        with self._loading:
            if not self._current.is_broken:
                return False
            self._load(self._choice, timeout_s)
            return True

    def close(self) -> None:
        """Close the engine; a model that is being loaded is waited for."""
        with self._loading:
            self._current.engine.close()

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
        with self._changed:
            old, self._current = self._current, fresh
            self._choice = choice
            self.loads += 1
            if not self._changed.wait_for(lambda: old.users == 0 or old.is_broken, timeout_s):
                logger.warning(
                    "the old engine did not finish within %g s; it is closed with frames under way", timeout_s
                )
        old.engine.close()
        return fresh.model


class _Generation:
    """One engine between its start and its replacement. users: calls under way, frames included."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = engine.model
        self.users = 0
        self.is_broken = False
        # The engine in this process works in the calling thread: vehicles take turns.
        self.turn = FairLock() if engine.placement == "local" else None

    @contextmanager
    def calling(self) -> Iterator[Engine]:
        if self.turn is None:
            yield self.engine
            return
        with self.turn:
            yield self.engine


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

    def supervision(self) -> SupervisionState:
        return self._shared.supervision()

    @property
    def frames_under_way(self) -> int:
        """Frames that are being fused."""
        return self._under_way

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        with self._shared.using() as generation:
            return self._encode(generation, request)

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
            with generation.calling() as engine:
                inner = engine.fuse(request, [handle.inner for handle in handles])
                if remade:
                    engine.release([handle.inner for handle in remade])
        except BaseException:
            self._shared.end(generation)
            raise
        return self._watched(request, inner, generation, asked_ns)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._shared.using() as generation, generation.calling() as engine:
            # Features of an engine that was replaced went with it.
            own = [h.inner for h in features if isinstance(h, _Handle) and h.generation is generation]
            engine.release(own)

    def close(self) -> None:
        """Nothing to close."""

    def _encode(self, generation: _Generation, request: EncodeRequest) -> _Handle:
        own = replace(request, key=f"{self._name}/{next(self._numbers)}/{request.key}")
        with generation.calling() as engine:
            inner = engine.encode(own)
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
            if isinstance(error, EngineError):
                generation.is_broken = True
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
