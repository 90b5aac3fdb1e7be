"""The small model of a service: vehicles step to it, it is replaced by itself, and one that does without may."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from perception.config.schema import DeadlineConfig, LadderConfig, ModelChoice, ServiceConfig
from perception.config.serving import ReconnectConfig, VehicleConfig
from perception.core.errors import EngineError, ModelError, UsageError
from perception.core.ports import TieredEngine
from perception.core.supervision import SupervisionState
from perception.runtime.service_pools import OnePool
from perception.runtime.service_tiers import SharedTiers
from perception.runtime.service_vehicle import Vehicle
from perception.runtime.service_watch import Watcher
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from tests.unit.service_parts import PATIENCE_S, FakeEngine, until
from tests.unit.test_service_vehicle import ListQueue

ALWAYS_LATE = ServiceConfig(
    ladder=LadderConfig(small_model="quick", slow_frames=1), deadline=DeadlineConfig(budget_ms=0.0)
)
"""Every frame misses its deadline, so that the second one is worked on by the small model."""


class Started:
    """Starts fake engines, by name."""

    def __init__(self) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.refuses = ""

    def __call__(self, choice: ModelChoice) -> OnePool:
        if choice.name == self.refuses:
            raise ModelError(f"no model is called {choice.name!r}")
        self.engines[choice.name] = FakeEngine(choice.name)
        return OnePool(self.engines[choice.name])


def vehicle_on(shared: SharedTiers, settings: ServiceConfig, queue: ListQueue) -> Vehicle:
    drive = SyntheticSource(duration_s=1.0)
    messages = list(drive.messages())
    return Vehicle(
        VehicleConfig(name="anna", source="memory", rate=10.0, loop=True),
        settings,
        ReconnectConfig(),
        shared,
        Watcher(),
        open_source=lambda config, settings: MemorySource(drive.rig, messages),
        open_queue=lambda settings: queue,
    )


def published_by(queue: ListQueue, model: str) -> Callable[[], bool]:
    return lambda: bool(queue.results) and queue.results[-1].provenance.model == model


def test_a_vehicle_that_is_late_steps_to_the_small_model_and_goes_on_with_its_successor() -> None:
    queue = ListQueue()
    with closing(SharedTiers(Started(), ALWAYS_LATE)) as shared:
        assert {tier: model.name for tier, model in shared.models.items()} == {"full": "tiny", "small": "quick"}
        vehicle = vehicle_on(shared, ALWAYS_LATE, queue)
        vehicle.start()
        until(published_by(queue, "quick"))
        old, new = shared.replace_model("quicker", "small", timeout_s=PATIENCE_S)
        assert (old.name, new.name, shared.models["full"].name) == ("quick", "quicker", "tiny")
        until(published_by(queue, "quicker"))
        assert vehicle.drain(PATIENCE_S)
    assert queue.results[0].provenance.model == "tiny"
    assert {(one.provenance.model, one.provenance.ladder_rung) for one in queue.results} == {
        ("tiny", ""),
        ("quick", "small model"),
        ("quicker", "small model"),
    }


def test_a_vehicle_may_do_without_the_small_model() -> None:
    queue = ListQueue()
    alone = ALWAYS_LATE.model_copy(update={"ladder": LadderConfig(skip=(2,), slow_frames=1)})
    with closing(SharedTiers(Started(), ALWAYS_LATE)) as shared:
        vehicle = vehicle_on(shared, alone, queue)
        vehicle.start()
        until(lambda: any(one.provenance.ladder_level == 1 for one in queue.results))
        assert vehicle.drain(PATIENCE_S)
    assert {one.provenance.model for one in queue.results} == {"tiny"}


def test_a_service_without_a_ladder_has_one_model() -> None:
    with closing(SharedTiers(Started(), ServiceConfig())) as shared:
        view = shared.view("anna")
        assert isinstance(view, TieredEngine)
        assert len(view.tiers) == 1
        with pytest.raises(UsageError, match=r"no small model: set ladder\.small_model"):
            shared.replace_model("quick", "small", timeout_s=1.0)


def test_where_the_small_model_cannot_be_loaded_none_is_left() -> None:
    start = Started()
    start.refuses = "quick"
    with pytest.raises(ModelError, match="quick"):
        SharedTiers(start, ALWAYS_LATE)
    assert start.engines["tiny"].is_closed


def test_each_model_is_mended_by_itself() -> None:
    start = Started()
    with closing(SharedTiers(start, ALWAYS_LATE)) as shared:
        shared._engines["small"]._current.note(EngineError("an engine process died"))
        first = dict(start.engines)
        assert shared.is_broken
        assert [shared.mend(timeout_s=1.0), shared.mend(timeout_s=1.0)] == [True, False]
        assert (first["tiny"].is_closed, first["quick"].is_closed) == (False, True)
        assert shared.loads == 3


def test_processes_of_both_models_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {
        "full": SupervisionState(restarts={"fusion": 2}, hung=1, recovering=("all",), pids={"all": 7}),
        "small": SupervisionState(restarts={"fusion": 1}, last_outage_s=0.5, recovering=("all",), pids={"all": 8}),
    }
    with closing(SharedTiers(Started(), ALWAYS_LATE)) as shared:
        for tier, engine in shared._engines.items():
            monkeypatch.setattr(engine, "supervision", lambda tier=tier: states[tier])
        assert shared.supervision() == replace(
            states["full"],
            restarts={"fusion": 2, "small-fusion": 1},
            recovering=("all", "small-all"),
            last_outage_s=0.5,
            pids={"all": 7, "small-all": 8},
        )
