"""`perception sim --routes`: which routes are driven, when they end, and what is printed of them."""

import importlib.util
import json
from pathlib import Path

import pytest

from perception.cli.sim_routes import RouteOptions, planned
from perception.core.errors import ConfigError
from perception.core.results import PerceptionResult
from sim.held_out import held_out
from sim.routes import RouteSource, route_maps, route_scenarios, run_routes
from sim.scenario import load_scenario
from sim.score import TABLE_HEAD, RouteScore, summary, table_row, total_row
from tests.integration.conftest import Perception

if importlib.util.find_spec("libsumo") is None:  # loaded here, it would warn of other versions of Arrow
    pytest.skip("needs libsumo", allow_module_level=True)

SHORT = ("--sim-set", "route_length_m=60", "--sim-set", "traffic.warmup_s=5", "--duration", "6")
RADAR = """
sensors:
  - {type: radar, name: radar, mount: {x_m: 3.6, y_m: 0, z_m: 0.6}, timing: {rate_hz: 2}}
"""
LIDAR = """
sensors:
  - type: lidar
    name: lidar
    mount: {x_m: 0.9, y_m: 0, z_m: 1.8}
    timing: {rate_hz: 5}
    beams: 32
    columns: 90
"""


def _rig(folder: Path, text: str) -> str:
    path = folder / "rig.yaml"
    path.write_text(text)
    return str(path)


def _routes(count: int, *maps: str, seed: int | None = None, is_held_out: bool = False) -> list[tuple[str, int]]:
    options = RouteOptions(count=count, maps=maps, first_seed=seed, duration_s=None, is_held_out=is_held_out)
    return [(scenario.map, scenario.seed) for scenario in planned(load_scenario("tiny"), options)]


def test_routes_go_round_the_maps_that_may_be_trained_on_or_those_that_may_not() -> None:
    reserved = held_out()
    twenty = _routes(20, seed=101)
    assert [seed for _, seed in twenty] == [101] * 6 + [102] * 6 + [103] * 6 + [104] * 2
    assert {name for name, _ in twenty} == set(route_maps())
    assert not set(route_maps()) & set(reserved.maps)
    assert _routes(3, is_held_out=True) == [
        (reserved.maps[0], reserved.first_seed),
        (reserved.maps[1], reserved.first_seed),
        (reserved.maps[0], reserved.first_seed + 1),
    ]
    assert _routes(3, "rural", "motorway") == [("rural", 1), ("motorway", 1), ("rural", 2)]
    assert _routes(1, "rural", is_held_out=True) == [("rural", reserved.first_seed)]


def test_routes_are_as_long_and_last_as_long_as_they_are_told() -> None:
    def plan(*settings: str, duration_s: float | None = None) -> tuple[float, float, str]:
        options = RouteOptions(count=1, maps=(), first_seed=None, duration_s=duration_s, is_held_out=False)
        (scenario,) = planned(load_scenario("night_rain", settings), options)
        return scenario.route_length_m, scenario.duration_s, scenario.loop

    assert plan() == (600.0, 300.0, "lockstep")
    assert plan("route_length_m=250", "loop=async") == (250.0, 160.0, "async")
    assert plan(duration_s=7.0) == (600.0, 7.0, "lockstep")


def test_an_unknown_map_is_found_out_before_anything_is_driven() -> None:
    with pytest.raises(ConfigError, match=r"atlantis.*town_grid"):
        route_scenarios(["rural", "atlantis"], [1])


def test_the_table_has_each_route_and_their_sum(perception: Perception) -> None:
    code, out, err = perception("sim", "--routes", "2", "--map", "rural", "--driver", "oracle", "--seed", "3", *SHORT)
    assert code == 0, err
    base = load_scenario("tiny", ["traffic.warmup_s=5"])
    scenarios = [s.model_copy(update={"duration_s": 6.0}) for s in route_scenarios(["rural"], [3, 4], 60.0, base)]
    scores = list(run_routes(scenarios, "oracle"))
    assert out.splitlines() == [TABLE_HEAD, table_row(scores[0]), table_row(scores[1]), total_row(scores)]


def test_json_carries_every_field_of_every_route(perception: Perception) -> None:
    code, out, err = perception("sim", "--routes", "1", "--held-out", "--driver", "constant", "--json", *SHORT)
    assert code == 0, err
    read = json.loads(out)
    (score,) = (RouteScore(**row) for row in read["routes"])
    assert (score.driver, score.seed) == ("constant", held_out().first_seed)
    assert score.driven_m > 10.0
    assert read["summary"] == summary([score])


def test_hints_drive_with_the_service_in_the_loop(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    apply = RouteSource.apply

    def listen(source: RouteSource, result: PerceptionResult) -> None:
        heard.append(result.reference_ns)
        apply(source, result)

    monkeypatch.setattr(RouteSource, "apply", listen)
    code, out, err = perception(
        "sim", "--routes", "2", "--driver", "hints", "--rig", _rig(tmp_path, LIDAR), "--map", "rural", *SHORT[:-1], "1",
        "--placement", "local", "--queue", "memory:routes", "--set", "queue.linger_s=0", "--json",
    )  # fmt: skip
    assert code == 0, err
    read = json.loads(out)
    assert [row["name"] for row in read["routes"]] == ["rural/1", "rural/2"]
    assert all(row["driver"] == "hints" and row["driven_m"] > 1.0 for row in read["routes"])
    # Lidar sweeps of the first second of each route, in order.
    assert len(heard) == 8
    assert heard == sorted(heard[:4]) + sorted(heard[4:])


@pytest.mark.parametrize(("driver", "name"), [("oracle", "motorway"), ("constant", "ring_town")])
def test_a_route_ends_at_its_goal_or_where_the_ego_is_lost(tmp_path: Path, driver: str, name: str) -> None:
    base = load_scenario("tiny", [f"rig={_rig(tmp_path, RADAR)}", f"driver={driver}", "scenery.buildings=false"])
    (scenario,) = route_scenarios([name], [1_000_000], 100.0, base)
    source = RouteSource(scenario)
    for _ in source.messages():
        pass
    score = source.score()
    source.close()
    assert score.name == f"{name}/1000000"
    assert score.duration_s < 0.8 * scenario.duration_s
    assert score.finished == (driver == "oracle")
    assert (score.completion == 1.0) == score.finished
    assert score.off_road_s > 1.0 or score.finished
