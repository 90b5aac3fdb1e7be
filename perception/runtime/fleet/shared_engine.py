"""An engine that several drives share: an actor with the model, and the end of it that a worker holds.

Decoding, deskewing and tracking stay with the worker; what travels is packed points and images at the network's size,
once for each frame. Features stay in the actor.
"""

import asyncio
import itertools
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from perception.config.schema import ModelChoice, ModelConfig, RuntimeConfig
from perception.core.errors import EngineError
from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.batching import BatchingStages
from perception.pipeline.stages import Encoded, Prepared, open_model, prepare

LOAD_TIMEOUT_S = 300.0


class SharedModel:
    """`BatchingStages` in a process of its own; an async actor, so that each drive's calls begin in its order."""

    def __init__(self, choice: ModelChoice, runtime: RuntimeConfig, threads: int) -> None:
        # A session is bounded by its frames in flight; being held up here would hold up the others too.
        roomy = runtime.batching.model_copy(update={"max_queued": 1_000_000})
        model = open_model(choice)
        self._config = model.config
        self._stages = BatchingStages(model, roomy, threads=threads)
        self._sessions: dict[str, int] = {}
        self._kept: dict[str, dict[str, Future[Encoded]]] = {}

    async def describe(self) -> tuple[ModelInfo, ModelConfig, int]:
        """The model, its shape, and the process that holds it."""
        return self._stages.info, self._config, os.getpid()

    async def work(
        self, session: str, prepared: dict[str, Prepared], fuse: FuseRequest, keys: Sequence[str], forget: Sequence[str]
    ) -> FusionOutput:
        """Encode and keep, then fuse the features of `keys`, and forget some. Raises EngineError for unknown keys."""
        if session not in self._sessions:
            self._sessions[session], self._kept[session] = self._stages.open_session(), {}
        number, kept = self._sessions[session], self._kept[session]
        for key, one in prepared.items():
            kept[key] = self._stages.encode(number, one)
        if missing := [key for key in keys if key not in kept]:
            raise EngineError(f"the shared engine was restarted and lost {len(missing)} features of this drive")
        future = self._stages.fuse(number, fuse, [kept[key] for key in keys])
        for key in forget:
            kept.pop(key, None)
        return await asyncio.wrap_future(future)

    async def leave(self, session: str) -> None:
        """The drive has ended."""
        if (number := self._sessions.pop(session, None)) is not None:
            self._stages.close_session(number)
            self._kept.pop(session)

    def close(self) -> None:
        """Stop the model's thread."""
        self._stages.close()

    async def mean_batch(self) -> dict[str, float]:
        return self._stages.mean_batch


@dataclass(frozen=True, slots=True)
class _Handle:
    key: str


class SharedEngine:
    """A drive's engine on a `SharedModel` actor. Raises EngineError where it cannot be reached."""

    placement = "shared"

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._session = secrets.token_hex(8)
        try:
            described: tuple[ModelInfo, ModelConfig, int] = ray.get(actor.describe.remote(), timeout=LOAD_TIMEOUT_S)
        except RayError as error:
            raise EngineError(f"the shared engine does not answer: {type(error).__name__}") from error
        self._model, self._config, _ = described
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._prepared: dict[str, Prepared] = {}
        self._forgotten: list[str] = []

    @property
    def model(self) -> ModelInfo:
        return self._model

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        """Decode and pack now; it travels with the next fusion."""
        key = f"{next(self._numbers)}"
        prepared = prepare(request, self._config)
        with self._lock:
            self._prepared[key] = prepared
        return _Handle(key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        with self._lock:
            prepared, self._prepared = self._prepared, {}
            forgotten, self._forgotten = self._forgotten, []
        keys = [handle.key for handle in features]
        return _outcome(self._actor.work.remote(self._session, prepared, request, keys, forgotten))

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._lock:
            for handle in features:
                # What was never sent need not be forgotten there.
                if self._prepared.pop(handle.key, None) is None:
                    self._forgotten.append(handle.key)

    def close(self) -> None:
        self._actor.leave.remote(self._session)


def _outcome(ref: Any) -> Future[FusionOutput]:
    """The future of a call; what went wrong in the actor comes as the exception that it was there."""
    outcome: Future[FusionOutput] = Future()

    def forward(done: Future[FusionOutput]) -> None:
        error = done.exception()
        if error is None:
            outcome.set_result(done.result())
        elif isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            outcome.set_exception(error.cause)
        elif isinstance(error, RayError):
            outcome.set_exception(EngineError(f"the shared engine died: {type(error).__name__}"))
        else:
            outcome.set_exception(error)

    ref.future().add_done_callback(forward)
    return outcome
