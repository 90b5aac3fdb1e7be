"""`perception train` as the process that users start: killed and called again, stopped, called wrongly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.models.checkpoint import load_model

Start = Callable[..., "subprocess.Popen[str]"]

MODEL = {
    "name": "mini",
    "image": {"height_px": 32, "width_px": 64, "channels": [4, 8, 8, 8]},
    "lidar": {"max_points": 512, "pillar_m": 3.2, "canvas": 32, "channels": [8, 16]},
    "radar": {"max_points": 64, "channels": 8},
    "bev_cells": 32,
    "memory_cells": 8,
    "width": 16,
    "heads": 2,
    "feedforward": 32,
    "heatmap_queries": 24,
    "learned_queries": 4,
}
SETTINGS: dict[str, Any] = {
    "name": "mini",
    "model_settings": MODEL,
    "data": {"drives": ["synthetic:seed=1,duration=2"], "store": "frames", "workers": 0},
    "steps": 30,
    "batch_size": 2,
    "checkpoint_every": 4,
    "validate_every": 1000,
    "threads": 1,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a configuration; frames are made once for all runs in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    return tmp_path


def finish(process: "subprocess.Popen[str]", timeout_s: float = 250) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines) if line["kind"] == "step"]


def await_state(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    """Until the run has a state of at least so many steps."""
    deadline = time.monotonic() + 240
    while not any(int(path.stem[6:]) >= step for path in run.glob("state-*.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_was_killed_twice_has_the_loss_curve_of_one_that_was_not(folder: Path, start: Start) -> None:
    """Augmentation, dropout and denoising are on."""
    code, out, err = finish(start("train", "run.yaml", "--set", "name=undisturbed", "--json"))
    assert code == 0, err
    account = json.loads(out)
    assert account["progress"]["step"] == 30
    for step in (4, 16):
        process = start("train", "run.yaml")
        await_state(process, folder / "out/training/mini", step)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    code, out, err = finish(start("train", "run.yaml", "--quiet"))
    assert code == 0, err
    assert (out, err) == ("", "")
    undisturbed = losses(folder / "out/training/undisturbed")
    assert len(undisturbed) == 30
    assert losses(folder / "out/training/mini") == undisturbed
    again = load_model("out/training/mini/last.safetensors")
    assert again.info.hash == load_model(account["checkpoint"]).info.hash


def test_ctrl_c_saves_and_a_second_call_goes_on(folder: Path, start: Start) -> None:
    process = start("train", "run.yaml", "--set", "steps=100000", "--set", "checkpoint_every=100000", "--json")
    run = folder / "out/training/mini"
    while not (run / "metrics.jsonl").exists() or not losses(run):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 0, err
    stopped = json.loads(out)
    assert stopped["ending"] == "paused"
    done = stopped["progress"]["step"]
    assert done >= 1
    more = ("--set", f"steps={done + 3}")
    code, out, err = finish(start("train", "run.yaml", *more, "--profile", "--export", "ship/mini.safetensors"))
    assert code == 0, err
    assert f"finished: {done + 3} of {done + 3} steps" in out
    assert "backward" in out
    assert "perception replay DRIVE --model out/training/mini/last.safetensors" in out
    assert [step for step, _ in losses(run)] == list(range(done + 3))
    shipped = folder / "ship" / "mini.safetensors"
    assert shipped.stat().st_size < 0.7 * (run / "last.safetensors").stat().st_size
    assert load_model(str(shipped)).info.trained


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "needs a CONFIG"),
        (("nothing",), 2, "unknown training configuration 'nothing'; shipped: drives, gate_base"),
        (("missing.yaml",), 2, "no configuration file missing.yaml"),
        (("run.yaml", "--set", "optimiser.rate=1"), 2, "known here: clip_norm"),
        (("run.yaml", "--set", "optimiser.name=lion"), 2, "'adamw', 'adam', 'rmsprop' or 'sgd'"),
        (("run.yaml", "--set", "name=../up"), 2, "name"),
        (("run.yaml", "--set", "model=huge"), 1, "no model is called 'huge'"),
        (("run.yaml", "--set", "model=absent.safetensors"), 1, "absent.safetensors: cannot be read"),
        (("run.yaml", "--export", "weights.pt"), 2, "--export weights.pt: weights are safetensors"),
        (("run.yaml", "--set", "device=cuda:7"), 2, "torch sees no GPU here"),
        (("run.yaml", "--set", "data.drives=[nowhere/*]"), 1, "nowhere/*: no path fits"),
        (("run.yaml", "--set", "data.drives=[nowhere]"), 1, "nowhere: no such file or folder"),
        (("run.yaml", "--set", "data.validation=['synthetic:seed=1,duration=2']"), 2, "among data.drives too"),
    ],
)
def test_mistakes_are_told_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    from perception.cli.main import main

    monkeypatch.setattr(sys, "argv", ["perception", "train", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    captured = capsys.readouterr()
    assert done.value.code == code, captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (folder / "out").exists()


def test_the_smallest_overfit_gate_passes(folder: Path, start: Start) -> None:
    process = start("train", "--gate", "overfit", "--size", "small", "--set", "data.store=frames", "--json")
    code, out, err = finish(process, timeout_s=290)
    account = json.loads(out)
    assert code == 0, account.get("checks", err)
    assert account["passed"]
    assert sum(check["name"].startswith("mAP") for check in account["checks"]) == 7


def test_the_gradients_gate_needs_no_training(folder: Path, start: Start) -> None:
    code, out, err = finish(start("train", "--gate", "gradients", "--set", "data.store=frames"))
    assert code == 0, err
    assert out.count("passed  parameters of the") == 3
    assert not (folder / "out").exists()
