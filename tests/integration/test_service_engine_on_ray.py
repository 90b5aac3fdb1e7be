"""Two vehicles on one engine in a Ray actor, whose model is replaced while they drive: every result as without that."""

import threading
from collections.abc import Sequence

import pytest

from perception.config.schema import ModelChoice, ServiceConfig
from perception.core.messages import AnyMessage
from perception.core.ports import Engine
from perception.core.results import PerceptionResult
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.ray_engine import ray_engine
from perception.runtime.service_engine import SharedEngine
from perception.runtime.service_pools import OnePool
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource

TINY = ModelChoice(name="tiny")
pytestmark = pytest.mark.ray


def play(drive: SyntheticSource, messages: Sequence[AnyMessage], engine: Engine) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    source = MemorySource(drive.rig, messages, drive_id=drive.drive_id)
    run_drive(source, engine, ServiceConfig(), run_id="r", on_result=results.append, options=ReplayOptions())
    return results


def boxes(results: Sequence[PerceptionResult]) -> list[list[tuple[object, ...]]]:
    return [
        [(box.label, round(box.score, 3), *(round(value, 2) for value in box.center_m[:2])) for box in one.detections]
        for one in results
    ]


def test_vehicles_share_an_engine_whose_model_is_replaced(ray: None) -> None:
    drive = SyntheticSource(duration_s=1.5)
    messages = list(drive.messages())
    wanted = play(drive, messages, LocalEngine(open_model(TINY), threads=1))
    shared = SharedEngine(lambda choice: OnePool(ray_engine(choice, placement="colocated", threads=1)), TINY)
    found: dict[str, list[PerceptionResult]] = {}

    def drive_on(name: str) -> None:
        view = shared.view(name)
        found[name] = [result for _ in range(2) for result in play(drive, messages, view)]

    vehicles = [threading.Thread(target=drive_on, args=[name]) for name in ("anna", "berta")]
    for vehicle in vehicles:
        vehicle.start()
    seeded = shared.replace_model(TINY, timeout_s=120.0)
    for vehicle in vehicles:
        vehicle.join()
    shared.close()
    assert shared.loads == 2
    assert seeded.hash == wanted[0].provenance.model_hash
    for results in found.values():
        assert [result.sequence for result in results] == [*range(len(wanted))] * 2
        assert boxes(results[: len(wanted)]) == boxes(wanted)
        assert boxes(results[len(wanted) :]) == boxes(wanted)
