"""Scenarios: every shipped one is usable, and a wrong field is named with what it may be."""

import itertools
from pathlib import Path

import pytest

from perception.config.paths import config_dir
from perception.core.errors import ConfigError, DriveError
from perception.core.rig import Modality
from sim.faults import FaultInjector
from sim.logged_world import read_scenario
from sim.rig import load_rig
from sim.scenario import ScenarioConfig, load_scenario, scenario_names
from sim.source import SimulatorSource, SteerableSimulator, open_simulator
from sim.world_log import Header, WorldLogWriter


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_dir() / "scenarios").glob("*.yaml")))
def test_every_shipped_scenario_fits_its_rig(name: str) -> None:
    scenario = load_scenario(name)
    rig = load_rig(scenario.rig).sensor_rig
    FaultInjector(scenario.fault_plan, rig, start_ns=0, seed=scenario.seed)
    source = open_simulator(scenario)
    assert isinstance(source, SteerableSimulator) == (scenario.loop != "open")
    assert name in scenario_names()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("map=nowhere", r"map: .*town_grid"),
        ("loop=closed", "loop: .*'open', 'lockstep' or 'async'"),
        ("driver=nobody", "driver: .*'oracle', 'hints' or 'constant'"),
        ("weather.kind=sun", "weather.kind: .*'clear', 'cloudy'"),
        ("traffic.cars=3", "traffic.cars: no such field; known here: .*vehicles_per_lane_km"),
        ("start.offset_m=9", "start.offset_m: .*less than or equal to 3"),
        ("faults=[{type: melt, sensors: [ego]}]", "faults.0: .*'drop', 'delay'"),
        ("duration_s=-1", "duration_s: .*greater than 0"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_be(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_scenario("tiny", [setting])


def test_a_drive_can_be_made_without_its_cameras() -> None:
    source = open_simulator(load_scenario("tiny", ["cameras=false"]))
    assert {sensor.modality for sensor in source.rig.sensors} == {Modality.LIDAR, Modality.RADAR}
    assert source.label_times_ns == open_simulator(load_scenario("tiny")).label_times_ns


def test_unknown_scenarios_rigs_and_sensors_are_named() -> None:
    with pytest.raises(ConfigError, match=r"shipped: .*night_rain"):
        load_scenario("no_such")
    with pytest.raises(ConfigError, match=r"shipped: .*tiny"):
        SimulatorSource(ScenarioConfig(rig="no_such"))
    with pytest.raises(ConfigError, match=r"faults\.0\.sensors: no sensor 'CAM_TOP'"):
        SimulatorSource(load_scenario("tiny", ["faults=[{type: drop, sensors: [CAM_TOP]}]"]))


def test_a_log_of_another_version_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "old.wlog"
    WorldLogWriter(path, Header(scenario={"town": "old"})).close()
    with pytest.raises(DriveError, match=r"old\.wlog: the world log is of another version"):
        read_scenario(path)


def test_label_times_are_the_captures_of_the_first_lidar() -> None:
    source = SimulatorSource(load_scenario("tiny", ["duration_s=2"]))
    times = source.label_times_ns
    assert len(times) == 19
    assert all(90_000_000 < b - a < 110_000_000 for a, b in itertools.pairwise(times))
    assert source.labels(times[0]) is None
