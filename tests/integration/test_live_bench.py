"""The live benchmarks in seconds: what they print has its structure, and every frame is accounted for. No times."""

from collections.abc import Iterator

import pytest

from perception.cli import bench_tables
from perception.runtime.bench_drive import in_memory_drive
from perception.runtime.bench_live import LivePlan, Stand, bench_live, open_stand
from perception.runtime.bench_live_dora import why_no_dora
from perception.runtime.bench_live_load import bench_overload, bench_soak, bench_vehicles
from perception.runtime.bench_live_watch import STAGES

PLAN = LivePlan(seconds=3.0, compared_s=4.0, rounds=1, trial_s=3.0, hz=2.0, threads=1, placement="local")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with open_stand(in_memory_drive(duration_s=0.55), PLAN, lambda _: None) as opened:
        yield opened


def test_live(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_live(in_memory_drive(duration_s=0.55), PLAN, lambda _: None)
    service = figures["service"]
    assert set(service["stages_ms"]) == set(STAGES)
    assert service["account"]["is_exact"]
    ways = figures["compared"]["ways"]
    assert {"service", "service, deferred", "bare", "dora-rs"} == set(ways)
    if why_no_dora() is None:
        assert "left_out" not in ways["dora-rs"], ways["dora-rs"]
    bench_tables.show_live(figures)
    assert "overhead p50" in capsys.readouterr().out


def test_overload_is_accounted_for(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_overload(stand, factors=(0.5, 2.0), seconds=3.0)
    assert [load["account"]["is_exact"] for load in figures["loads"].values()] == [True, True]
    bench_tables.show_loads(figures)
    assert "NO" not in capsys.readouterr().out


def test_a_soak_tells_of_memory(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_soak(stand, factor=2.0, seconds=4.0)
    assert figures["account"]["is_exact"]
    assert figures["memory"]["most_mb"] > 50
    bench_tables.show_soak(figures)
    assert "memory after" in capsys.readouterr().out


def test_vehicles_share_one_engine(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench_vehicles(stand, counts=(1, 2), seconds=3.0)
    assert set(figures["fleets"]) == {"shared", "batched"}
    for fleets in figures["fleets"].values():
        assert all(fleet["is_exact"] for fleet in fleets.values())
        assert len(fleets["2"]["by_vehicle"]) == 2
        assert 0.5 <= fleets["2"]["jain"] <= 1.0
    bench_tables.show_vehicles(figures)
    assert "least/most" in capsys.readouterr().out
