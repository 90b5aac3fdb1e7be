"""The report of an evaluation as JSON, Markdown and pictures, and the plans that are shipped."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import pytest

from perception.config.evaluation import EvaluatedDrive, EvaluationPlan, RobustnessPlan, load_plan
from perception.config.paths import config_dir
from perception.config.schema import ServiceConfig
from perception.core.errors import ConfigError, UsageError
from perception.evaluation.evaluate import Evaluator, Parts
from perception.evaluation.plots import draw_report
from perception.evaluation.report import provenance, table, to_markdown, write_report
from perception.sources.memory import MemorySource
from perception.sources.synthetic import SyntheticSource
from sim.held_out import held_out
from sim.scenario import load_scenario
from sim.settings import WorldSettings
from tests.truth_engine import TruthEngine

PLANS = sorted(path.stem for path in (config_dir() / "evaluation").glob("*.yaml"))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    made = SyntheticSource(seed=4, duration_s=1.0)
    labels = {time: found for time in made.label_times_ns if (found := made.labels(time)) is not None}
    drive = MemorySource(made.rig, made.messages(), labels, drive_id="computed/4")
    plan = EvaluationPlan(robustness=RobustnessPlan(drop_probability=(0.5,), extrinsic_deg=(3.0,), stride=1))
    engine = TruthEngine(drive)
    evaluator = Evaluator(engine, ServiceConfig(), plan, Parts(robustness=True))
    evaluator.add(drive, EvaluatedDrive(path="computed", conditions=("computed",), is_disturbed=True))
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    origin = provenance(engine.model, engine.placement, plan, began=began, seconds=12.34)
    return {**evaluator.scores(), "provenance": origin}


def test_json_has_no_nan_and_reads_back(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path / "deep" / "out")
    written = json.loads((tmp_path / "deep" / "out" / "report.json").read_text())
    assert written["mAP"] == report["mAP"]
    assert written["provenance"]["model_hash"] == "0" * 16
    assert written["provenance"]["trained"] is True
    assert written["provenance"]["date"] == "2026-01-02T03:04:05+00:00"
    assert written["drives"][0]["drive_id"] == "computed/4"
    assert set(written["per_class"]) >= {"car", "pedestrian", "barrier"}
    assert (tmp_path / "deep" / "out" / "report.md").read_text() == to_markdown(report)


def test_markdown_says_what_json_says(report: dict[str, Any]) -> None:
    text = to_markdown(report)
    for heading in (
        "Detection",
        "Sensors",
        "Conditions",
        "Tracking",
        "Path hints",
        "Streaming",
        "Robustness",
        "Drives",
    ):
        assert f"\n## {heading}\n" in text
    car = report["per_class"]["car"]
    assert f"| car | {car['ap']:.3f} |" in text
    assert "| camera+lidar+radar | " in text
    assert "at_t (UniAD)" in text
    assert "mean_to_t (ST-P3, VAD)" in text
    assert f"| 50% of frames dropped | {report['robustness'][1]['mAP']:.3f} |" in text
    assert "untrained" not in text
    untrained = {**report, "provenance": {**report["provenance"], "trained": False}}
    assert "untrained weights: the figures say nothing" in to_markdown(untrained)


def test_parts_that_were_not_asked_for_are_left_out(report: dict[str, Any], tmp_path: Path) -> None:
    less = {**report, "streaming": None, "robustness": None, "per_subset": None}
    text = to_markdown(less)
    assert "## Streaming" not in text
    assert "## Sensors" not in text
    names = {path.name for path in draw_report(less, tmp_path)}
    assert "streaming.png" not in names
    assert "precision_recall.png" in names


def test_the_closed_loop_has_a_row_for_each_route_and_driver(report: dict[str, Any]) -> None:
    route = {"name": "old_town/3", "driver": "hints", "completion": 0.5, "collisions": 1, "collisions_at_fault": 1}
    route |= {"off_road_s": 0.0, "red_lights": 0, "mean_speed_mps": 4.25}
    total = {"routes": 1.0, "completion": 0.5, "collisions": 1.0, "collisions_at_fault": 1.0, "off_road_s": 0.0}
    loop = {"routes": [route], "summary": {"hints": {**total, "red_lights": 0.0}}}
    text = to_markdown({**report, "closed_loop": loop})
    assert "| old_town/3 | hints | 0.500 | 1 | 1 | 0.000 | 0 | 4.250 |" in text
    assert "| all 1 | hints | 0.500 |" in text


def test_every_part_gets_a_picture(report: dict[str, Any], tmp_path: Path) -> None:
    paths = draw_report(report, tmp_path)
    assert {path.stem for path in paths} == {
        "precision_recall",
        "distance",
        "subsets",
        "conditions",
        "dropped_frames",
        "mounts",
        "robustness",
        "streaming",
        "planning",
    }
    for path in paths:
        image = cv2.imread(str(path))
        assert image is not None
        assert image.shape[0] > 300
        assert image.std() > 5


def test_without_matplotlib_the_remedy_is_named(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        draw_report(report, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="give another --out"):
        write_report(report, tmp_path / "file" / "out")


def test_tables_tell_numbers_from_what_is_not_known() -> None:
    assert table(("a", "b"), [("x", 1.23456), ("y", None), ("z", 3)]) == (
        "| a | b |\n|---|---:|\n| x | 1.235 |\n| y | - |\n| z | 3 |"
    )


@pytest.mark.parametrize("name", PLANS)
def test_shipped_plans_hold_worlds_that_nothing_is_trained_on(name: str) -> None:
    plan, reserved = load_plan(name), held_out()
    assert plan.drives
    for drive in plan.drives:
        scenario, *settings = drive.path.removeprefix("sim:").split(",")
        assert reserved.holds(load_scenario(scenario, settings).world), drive.path
    for map_name in plan.closed_loop.maps:
        for seed in plan.closed_loop.seeds:
            assert reserved.holds(WorldSettings(map=map_name, seed=seed))


def test_the_held_out_plan_has_every_weather() -> None:
    plan = load_plan("held_out")
    conditions = {condition for drive in plan.drives for condition in drive.conditions}
    assert {"clear", "fog", "night", "rain"} <= conditions
    assert len({drive.path for drive in plan.drives}) == len(plan.drives)
    assert any(drive.is_disturbed for drive in plan.drives)
    assert plan.robustness.drop_probability[0] == 0.1
    assert plan.robustness.drop_probability[-1] == 0.9


def test_an_unknown_plan_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        load_plan("no_such_plan")
