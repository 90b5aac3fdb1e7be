"""What the service's vehicles share: one engine that they take turns on, or one model that works on them in batches."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from perception.config.schema import ModelChoice, RuntimeConfig
from perception.core.ports import Engine, Supervised
from perception.core.stages import ModelInfo
from perception.core.supervision import SupervisionState
from perception.pipeline.batching import BatchingEngine, BatchingStages
from perception.pipeline.stages import open_model
from perception.runtime.engines import choose_placement, engine_starter


class EnginePool(Protocol):
    """One loaded model for several vehicles."""

    @property
    def placement(self) -> str: ...

    @property
    def model(self) -> ModelInfo: ...

    def engine(self, vehicle: str) -> Engine:
        """The engine that a vehicle calls; the same one each time. Any thread may ask."""
        ...

    def forget(self, vehicle: str) -> None:
        """The vehicle rests; what it still had in work is given up."""
        ...

    def supervision(self) -> SupervisionState | None:
        """What the engine says of its processes; None where it has none."""
        ...

    def close(self) -> None: ...


StartPool = Callable[[ModelChoice], EnginePool]


class OnePool:
    """One engine for all; actors queue what vehicles ask for, in its order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def placement(self) -> str:
        return self._engine.placement

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    def engine(self, vehicle: str) -> Engine:
        return self._engine

    def forget(self, vehicle: str) -> None:
        """Nothing to forget: features are released one by one."""

    def supervision(self) -> SupervisionState | None:
        return self._engine.supervision() if isinstance(self._engine, Supervised) else None

    def close(self) -> None:
        self._engine.close()


class BatchingPool:
    """A session of one batching model for each vehicle that drives: a resting one is not waited for."""

    placement = "batching"

    def __init__(self, stages: BatchingStages) -> None:
        self._stages = stages
        self._lock = threading.Lock()
        self._engines: dict[str, BatchingEngine] = {}

    @property
    def model(self) -> ModelInfo:
        return self._stages.info

    def engine(self, vehicle: str) -> Engine:
        with self._lock:
            if vehicle not in self._engines:
                self._engines[vehicle] = self._stages.engine()
            return self._engines[vehicle]

    def forget(self, vehicle: str) -> None:
        with self._lock:
            engine = self._engines.pop(vehicle, None)
        if engine is not None:
            engine.close()

    def supervision(self) -> None:
        return None

    def close(self) -> None:
        self._stages.close()


@contextmanager
def pool_starter(config: RuntimeConfig, *, address: str | None = None) -> Iterator[StartPool]:
    """What starts a pool for a model, any number of times, for the length of a `with` block.

    `local` works in batches; the other placements have one engine of actors. Raises what `engine_starter` raises.
    """
    with engine_starter(config, address=address) as start:
        if choose_placement(config) == "local":
            threads = config.threads or os.cpu_count() or 1
            yield lambda model: BatchingPool(BatchingStages(open_model(model), config.batching, threads=threads))
        else:
            yield lambda model: OnePool(start(model))
