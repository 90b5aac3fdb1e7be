"""`perception eval` as users start it, and what perfect perception scores on simulated and recorded drives."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perception.cli.eval import eval_command
from perception.config.evaluation import EvaluatedDrive, EvaluationPlan
from perception.config.schema import ServiceConfig
from perception.evaluation.evaluate import Evaluator, Parts
from perception.evaluation.run import held, run_labelled
from perception.evaluation.subsets import SUBSETS, subset_name
from perception.sources.open import open_drive
from tests.truth_engine import TruthEngine

CLIP = "sim:tiny,map=old_town,seed=1000000,duration_s=1,traffic.warmup_s=5"
QUICK = ("--set", "runtime.threads=1", "--json")


def evaluated(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(eval_command, [*arguments, *QUICK], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def report_of(result: Result) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_a_simulated_drive_gives_the_whole_report(tmp_path: Path) -> None:
    report = report_of(evaluated(CLIP, "--out", str(tmp_path)))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.md").read_text().startswith("# Evaluation of tiny")
    assert (tmp_path / "subsets.png").stat().st_size > 1000
    assert report["frames"] == 9  # sweeps at 10 Hz; the last one ends after the drive
    assert report["missing_frames"] == 0
    assert 0 <= report["mAP"] <= 1
    assert set(report["per_subset"]) == {subset_name(subset) for subset in SUBSETS}
    assert all(found["frames"] == 9 for found in report["per_subset"].values())
    assert report["drives"][0]["labels"] > 0
    assert report["streaming"]["measured"]["frames"] == 9
    assert report["provenance"]["model_hash"]
    assert report["provenance"]["plan"]["score_threshold"] == 0.0


def test_recorded_drives_are_evaluated_together(drive_data: Path) -> None:
    paths = [str(drive_data / name) for name in ("nuscenes-mini-1kf", "pandaset-002")]
    report = report_of(evaluated(*paths, "--no-streaming"))
    assert [drive["frames"] for drive in report["drives"]] == [1, 8]
    assert report["frames"] == 9
    assert report["streaming"] is None
    assert report["per_subset"]["camera+lidar+radar"]["frames"] == 1  # only nuScenes has radars
    assert report["per_subset"]["camera+lidar"]["frames"] == 9


def test_wrong_use_is_told(tmp_path: Path) -> None:
    runner = CliRunner()
    assert "but none was given" in str(runner.invoke(eval_command, ["--scene", "x"]).exception)
    assert "unknown evaluation configuration" in str(runner.invoke(eval_command, ["--plan", "x"]).exception)
    missing = runner.invoke(eval_command, [str(tmp_path / "nothing"), *QUICK])
    assert "no such file or folder" in str(missing.exception)


@pytest.mark.parametrize("name", [CLIP, "nuscenes-mini-1kf", "pandaset-002", "aimotive-night", "kitti-object"])
def test_perfect_detections_score_one(name: str, request: pytest.FixtureRequest) -> None:
    path = name if name.startswith("sim:") else str(request.getfixturevalue("drive_data") / name)
    config = ServiceConfig()
    with contextlib.closing(open_drive(path)) as source:
        seen = run_labelled(source, TruthEngine(source), config, is_kept=True)
        drive = held(source, seen)
    evaluator = Evaluator(TruthEngine(drive), config, EvaluationPlan(), Parts(streaming=False))
    evaluator.add(drive, EvaluatedDrive(path=path))
    scores = evaluator.scores()
    assert scores["mAP_present"] == pytest.approx(1.0, abs=1e-6)
    assert scores["mATE"] is not None
    present = [found for found in scores["per_class"].values() if found["num_labels"]]
    assert present
    for found in present:
        assert found["tp_errors"]["trans"] < 1e-3
        assert found["tp_errors"]["scale"] < 1e-3
