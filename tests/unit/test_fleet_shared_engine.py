"""The shared engine of a fleet, with its actor on an event loop in this process."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import ray

from perception.config.schema import ModelChoice, RuntimeConfig, ServiceConfig
from perception.core.errors import EngineError
from perception.core.ports import Engine
from perception.core.results import PerceptionResult
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.fleet.shared_engine import SharedEngine, SharedModel
from perception.sources.synthetic import SyntheticSource
from tests.results_alike import assert_same_results


class Call:
    def __init__(self, future: "Future[Any]") -> None:
        self._future = future

    def future(self) -> "Future[Any]":
        return self._future


class Method:
    def __init__(self, method: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._method, self._loop = method, loop

    def remote(self, *arguments: Any) -> Call:
        return Call(asyncio.run_coroutine_threadsafe(self._method(*arguments), self._loop))


class InProcessActor:
    """Runs an async actor's methods as Ray does: begun in the order of the calls, on one loop."""

    def __init__(self, served: SharedModel) -> None:
        self.served = served
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        self.served.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self.served, name), self.loop)


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessActor]:
    monkeypatch.setattr(ray, "get", lambda call, timeout: call.future().result(timeout))
    made = InProcessActor(SharedModel(ModelChoice(), RuntimeConfig(), 1))
    yield made
    made.stop()


def results_of(seed: int, engine: Engine) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    source = SyntheticSource(seed=seed, duration_s=0.3)
    run_drive(source, engine, ServiceConfig(), run_id="r", on_result=results.append, options=ReplayOptions())
    return results


def test_drives_that_share_an_actor_say_what_each_says_alone(actor: InProcessActor) -> None:
    def play(seed: int) -> list[PerceptionResult]:
        engine = SharedEngine(actor)
        try:
            return results_of(seed, engine)
        finally:
            engine.close()

    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(play, (1, 2)))
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), actor.loop).result(60)
    assert not actor.served._kept  # nothing stays of drives that have ended
    for seed, ours in zip((1, 2), shared, strict=True):
        assert ours
        assert_same_results(ours, results_of(seed, LocalEngine(open_model(ModelChoice()), threads=1)))


def test_an_actor_that_forgot_is_an_engine_error(actor: InProcessActor) -> None:
    engine = SharedEngine(actor)

    class Forgets(SharedEngine):
        def __init__(self) -> None:
            super().__init__(actor)
            self.fusions = 0

        def fuse(self, *arguments: Any) -> "Future[Any]":
            self.fusions += 1
            if self.fusions == 3:  # as after a restart, with features that were sent before it
                super().fuse(*arguments)
                asyncio.run_coroutine_threadsafe(self.restart(), actor.loop)
            return super().fuse(*arguments)

        async def restart(self) -> None:
            actor.served._kept[self._session].clear()

    with pytest.raises(EngineError, match="restarted"):
        results_of(1, Forgets())
    engine.close()
