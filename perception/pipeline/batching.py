"""One model for several sessions: their work goes through the network together."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic_ns

import torch

from perception.config.schema import BatchingConfig, ModelConfig
from perception.core.errors import EngineError
from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.models.inference import InferenceModel
from perception.pipeline.batch_queue import FUSION, BatchQueue
from perception.pipeline.stages import (
    Encoded,
    Prepared,
    bundle_of,
    encode_prepared,
    encoded_from,
    fusion_span,
    prepare,
    with_account,
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Encoding:
    session: int
    prepared: Prepared
    queued_ns: int
    done: Future[Encoded] = field(default_factory=Future)
    is_ready = True

    @property
    def stage(self) -> str:
        return self.prepared.stage


@dataclass(slots=True, kw_only=True, eq=False)
class _Fusion:
    session: int
    request: FuseRequest
    needs: tuple[Future[Encoded], ...]
    queued_ns: int
    done: Future[FusionOutput] = field(default_factory=Future)
    stage = FUSION

    @property
    def is_ready(self) -> bool:
        return all(need.done() for need in self.needs)


class BatchingStages:
    """The model and a thread that runs it on batches of whatever the sessions want. `engine` opens a session.

    A session's requests are fused in its order. Sessions take turns, so that a busy one holds up none; one that queues
    more than `max_queued` requests waits itself. What fails alone in a batch fails for its own session only.
    """

    def __init__(self, model: InferenceModel, config: BatchingConfig, *, threads: int) -> None:
        """threads: of torch."""
        self._model = model
        self._max_queued = config.max_queued
        self._queue: BatchQueue[_Encoding | _Fusion] = BatchQueue(config)
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._batches: Counter[str] = Counter()
        self._worked: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, args=(threads,), name="batching", daemon=True)
        self._thread.start()

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    @property
    def model_config(self) -> ModelConfig:
        return self._model.config

    @property
    def mean_batch(self) -> dict[str, float]:
        """How many requests went through each stage at once, on average."""
        return {stage: self._worked[stage] / count for stage, count in self._batches.items()}

    def engine(self) -> "BatchingEngine":
        """An engine for one more session."""
        return BatchingEngine(self)

    def open_session(self) -> int:
        """The number of a new session. Raises EngineError once closed."""
        with self._changed:
            self._require_open()
            session = next(self._numbers)
            self._queue.open(session)
            return session

    def close_session(self, session: int) -> None:
        """Forget a session; what it still waits for fails with EngineError."""
        with self._changed:
            left = self._queue.close(session)
            self._changed.notify_all()
        _abandon(left, "the session was closed")

    def encode(self, session: int, prepared: Prepared) -> Future[Encoded]:
        """Queue one request; blocks while the session has too many. Raises EngineError once closed."""
        work = _Encoding(session=session, prepared=prepared, queued_ns=monotonic_ns())
        if prepared.error is not None:
            work.done.set_result(encoded_from(prepared, None))
            return work.done
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._queue.queued(session) < self._max_queued)
            self._put(work)
        return work.done

    def fuse(self, session: int, request: FuseRequest, needs: Sequence[Future[Encoded]]) -> Future[FusionOutput]:
        """Queue a fusion of what was or will be encoded. Raises EngineError once closed."""
        work = _Fusion(session=session, request=request, needs=tuple(needs), queued_ns=monotonic_ns())
        with self._changed:
            self._put(work)
        return work.done

    def close(self) -> None:
        """Stop; what is still waiting fails with EngineError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _put(self, work: _Encoding | _Fusion) -> None:
        self._require_open()
        if work.session not in self._queue.sessions:
            raise EngineError("the session was closed")
        self._queue.put(work)
        self._changed.notify_all()

    def _require_open(self) -> None:
        if self._is_closed:
            raise EngineError("the batching engine was closed")

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while batch := self._next():
            self._batches[batch[0].stage] += 1
            self._worked[batch[0].stage] += len(batch)
            self._work(batch)
        with self._changed:
            left = [work for session in self._queue.sessions for work in self._queue.close(session)]
        _abandon(left, "the batching engine was closed")

    def _next(self) -> list[_Encoding | _Fusion]:
        """Wait for the next batch; empty once closed."""
        with self._changed:
            while not self._is_closed:
                if batch := self._queue.take(monotonic_ns()):
                    self._changed.notify_all()  # there is room for those that were held up
                    return batch
                self._changed.wait(self._queue.due_in_s(monotonic_ns()))
        return []

    def _work(self, batch: Sequence[_Encoding | _Fusion]) -> None:
        try:
            encodings = [work for work in batch if isinstance(work, _Encoding)]
            if encodings:
                self._encode(encodings)
            else:
                self._fuse([work for work in batch if isinstance(work, _Fusion)])
        except Exception as error:  # the session sees it where it waits, as with any other engine
            if len(batch) == 1:
                batch[0].done.set_exception(error)
                return
            for work in batch:
                self._work([work])

    def _encode(self, works: Sequence[_Encoding]) -> None:
        for work, features in zip(works, encode_prepared(self._model, [one.prepared for one in works]), strict=True):
            work.done.set_result(encoded_from(work.prepared, features))

    def _fuse(self, works: Sequence[_Fusion]) -> None:
        started_ns = monotonic_ns()
        encoded = [[need.result() for need in work.needs] for work in works]
        pairs = list(zip(works, encoded, strict=True))
        outputs = self._model.fuse_bundles([bundle_of(work.request, parts) for work, parts in pairs])
        fusion = fusion_span(started_ns)
        for (work, parts), output in zip(pairs, outputs, strict=True):
            work.done.set_result(with_account(output, work.request, parts, fusion))


@dataclass(frozen=True, slots=True)
class _Handle:
    key: str
    done: Future[Encoded]


class BatchingEngine:
    """The engine of one session of a `BatchingStages`; decodes and packs in the session's own thread."""

    placement = "batching"

    def __init__(self, stages: BatchingStages) -> None:
        self._stages = stages
        self._session = stages.open_session()

    @property
    def model(self) -> ModelInfo:
        return self._stages.info

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        prepared = prepare(request, self._stages.model_config)
        return _Handle(request.key, self._stages.encode(self._session, prepared))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        needs = [handle.done for handle in features if isinstance(handle, _Handle)]
        return self._stages.fuse(self._session, request, needs)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """Nothing to do: features go with their handles."""

    def close(self) -> None:
        """End the session; the model goes on for the others."""
        self._stages.close_session(self._session)


def _abandon(works: Sequence[_Encoding | _Fusion], why: str) -> None:
    for work in works:
        work.done.set_exception(EngineError(why))
