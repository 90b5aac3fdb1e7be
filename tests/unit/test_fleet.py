"""What of a fleet needs no cluster: which drives, what is done, what it came to, and what got worse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config.fleet import BaselineConfig
from perception.config.schema import ModelChoice, ServiceConfig
from perception.core.errors import UsageError
from perception.core.results import PerceptionResult
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.stages import open_model
from perception.queues.open import subscribe
from perception.runtime.fleet.baseline import bootstrap, compare_fleets
from perception.runtime.fleet.drive_job import DriveJob, folder_of, is_whole, play_drive
from perception.runtime.fleet.inputs import DriveRef, expand
from perception.runtime.fleet.ledger import LEDGER_NAME, Ledger, read_latest
from perception.runtime.fleet.summary import HTML_NAME, summarise, write_summary


def names(*arguments: str) -> list[str]:
    return [drive.shown for drive in expand(arguments)]


def test_manifests_hold_paths_mappings_and_other_manifests(tmp_path: Path) -> None:
    (tmp_path / "inner.json").write_text('{"drives": ["synthetic:seed=7", {"path": "s3://b/x.mcap", "scene": 3}]}')
    (tmp_path / "list.txt").write_text("# comment\n\nsynthetic:seed=1\ninner.json\n")
    (tmp_path / "list.yaml").write_text("- path: https://h/d.mcap?sig=SECRET\n  format: mcap\n")
    assert names(str(tmp_path / "list.txt")) == ["synthetic:seed=1", "synthetic:seed=7", "s3://b/x.mcap#scene=3"]
    (tmp_path / "gone.txt").write_text("missing.mcap\nsynthetic:seed=2\n")
    assert names(str(tmp_path / "gone.txt")) == [str(tmp_path / "missing.mcap"), "synthetic:seed=2"]
    signed = next(iter(expand([str(tmp_path / "list.yaml")])))
    assert signed.path.endswith("SECRET")
    assert "SECRET" not in signed.shown + signed.name
    assert signed.format == "mcap"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"drives": 3}', "must hold a list"),
        ("[[1]]", "entry 1"),
        ('[{"path": "a", "mode": 1}]', "entry 1"),
        ("{", "not"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        names(str(tmp_path / "m.json"))


def test_secrets_stay_off_the_command_line(tmp_path: Path) -> None:
    for url in ("https://h/d.mcap?X-Amz-Signature=abc", "https://me:abc@h/d.mcap"):
        with pytest.raises(UsageError, match="manifest") as caught:
            names(url)
        assert "abc" not in str(caught.value)
    inside = DriveRef(path="https://me:abc@h/d.mcap?sig=abc")
    assert inside.shown == "https://h/d.mcap"
    with pytest.raises(UsageError, match="no such"):
        names(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="nothing is called so"):
        names(str(tmp_path / "*.mcap"))
    with pytest.raises(UsageError, match="no drive here"):
        names(str(tmp_path))


@given(path=st.text(min_size=1), scene=st.none() | st.text(min_size=1))
def test_names_are_file_names_and_differ(path: str, scene: str | None) -> None:
    drive = DriveRef(path=path, scene=scene)
    assert "/" not in drive.name
    assert 17 <= len(drive.name) <= 77
    assert drive.name.isascii()
    assert 0 <= drive.key < 2**64
    assert drive.key != DriveRef(path=path + "x", scene=scene).key


SETTINGS = {"model": {"name": "tiny"}, "weights": "a"}


def line(key: int, state: str = "done") -> dict[str, Any]:
    return {"key": key, "state": state}


def test_the_ledger_survives_being_cut_off_anywhere(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    for key in (5, 2**64 - 1, 9):
        ledger.append(line(key))
    ledger.append(line(9, "failed"))
    ledger.close()
    path = tmp_path / LEDGER_NAME
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = Ledger(tmp_path, SETTINGS)
        done = again.done()
        again.append(line(77))
        again.close()
        lines = sum(end <= cut for end in ends)
        assert (5 in done, 2**64 - 1 in done, 9 in done) == (lines >= 2, lines >= 3, lines == 4)
        assert [record["key"] for record in read_latest(path)][-1] == 77


def test_other_settings_are_refused_by_name_and_two_at_once_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SETTINGS)
    with pytest.raises(UsageError, match="at work"):
        Ledger(tmp_path, SETTINGS)
    ledger.close()
    with pytest.raises(UsageError, match=r'model.name: "tiny" there, "small" now'):
        Ledger(tmp_path, {"model": {"name": "small"}, "weights": "a"})


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(open_model(ModelChoice()), threads=1)


def job(path: str, out: Path) -> DriveJob:
    return DriveJob(
        drive=DriveRef(path=path), config=ServiceConfig(), out=out, run="r", attempt=1, max_bytes=10**9, cache=None
    )


def test_a_drive_leaves_everything_or_nothing(tmp_path: Path, engine: LocalEngine) -> None:
    done = job("synthetic:seed=1,duration=0.4", tmp_path)
    account = play_drive(done, engine)
    assert account["state"] == "done"
    folder = folder_of(tmp_path, done.drive)
    results = [r for r in subscribe(f"mcap:{folder / 'results.mcap'}", timeout_s=10) if isinstance(r, PerceptionResult)]
    frames, boxes = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("frames", "detections"))
    assert len(results) == len(frames) == account["frames"] > 0
    assert [row["score"] for row in boxes] == [float(s) for r in results for s in r.detections.score]
    assert [row["detections"] for row in frames] == [len(r.detections) for r in results]
    assert account["metrics"]["per_class"]["car"]["labels"] > 0
    assert is_whole(tmp_path, done.drive, account, checksums=True)
    table = folder / "frames.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    assert is_whole(tmp_path, done.drive, account, checksums=False)
    assert not is_whole(tmp_path, done.drive, account, checksums=True)

    class Breaks(LocalEngine):
        def fuse(self, *_: Any) -> Any:
            raise OSError("out of memory")

    broken = Breaks(open_model(ModelChoice()), threads=1)
    hurt = play_drive(job("synthetic:seed=2,duration=0.4", tmp_path), broken)
    assert (hurt["state"], hurt["may_retry"], hurt["error"]) == ("failed", True, "OSError: out of memory")
    unreadable = play_drive(job(str(tmp_path), tmp_path), engine)
    assert (unreadable["state"], unreadable["may_retry"]) == ("failed", False)
    assert [path.name for path in (tmp_path / "drives").glob("*/*")] == [done.drive.name]


def fleet(folder: Path, maps: list[float | None], settings: dict[str, Any] = SETTINGS) -> Path:
    """A ledger of drives with these mAPs; a drive with None failed."""
    ledger = Ledger(folder, settings)
    for key, value in enumerate(maps):
        base = {"key": key, "source": f"<drive & {key}>", "attempts": 1}
        if value is None:
            ledger.append(base | {"state": "failed", "error": "<b>broken</b>"})
            continue
        metrics = {"mAP": value, "NDS": 0.5, "per_class": {"car": {"AP": value, "labels": 3}}}
        ledger.append(
            base
            | {"state": "done", "frames": 10, "messages": 90, "seconds": 2.0, "span_s": 1.0, "dropped": {"late": 1}}
            | {"latency_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0}, "metrics": metrics}
        )
    ledger.close()
    return folder


def test_the_summary_sums_up_and_its_page_is_safe(tmp_path: Path) -> None:
    folder = fleet(tmp_path, [0.2, 0.4, None])
    summary = write_summary(folder)
    assert summary["drives"] == {"done": 2, "failed": 1, "retried": 0, "labelled": 2}
    assert summary["metrics"]["mAP"] == pytest.approx(0.3)
    assert summary["metrics"]["per_class"]["car"] == {"AP": 0.3, "drives": 2, "labels": 6}
    assert (summary["frames"], summary["dropped"]) == (20, {"late": 2})
    page = (folder / HTML_NAME).read_text()
    assert "<svg" in page
    assert "<b>broken" not in page
    assert "&lt;drive &amp; 2&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", ""
    ).replace("http://creativecommons.org", "")
    assert json.loads((folder / "summary.json").read_text())["drives"]["done"] == summarise(folder)["drives"]["done"]


def test_a_real_fall_is_worse_and_noise_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    before = (0.4 + 0.1 * rng.standard_normal(40)).tolist()
    noisy = [value + 0.05 * float(rng.standard_normal()) for value in before]
    fallen = [value - 0.03 for value in noisy]
    config = BaselineConfig()
    a = fleet(tmp_path / "a", before)
    assert not compare_fleets(a, fleet(tmp_path / "b", noisy), config).is_worse
    worse = compare_fleets(a, fleet(tmp_path / "c", fallen, SETTINGS | {"weights": "b"}), config)
    assert worse.is_worse
    change = worse.changes["mAP"]
    assert change.is_worse
    assert change.low is not None
    assert change.low <= change.change <= (change.high or 0) < 0
    assert not worse.changes["NDS"].is_worse
    assert worse.notes == ("weights: a, then b",)
    assert worse == compare_fleets(a, tmp_path / "c", config)
    assert not compare_fleets(a, tmp_path / "c", BaselineConfig(tolerance=0.2)).is_worse


def test_few_drives_are_judged_by_the_tolerance_and_a_new_failure_is_worse(tmp_path: Path) -> None:
    a = fleet(tmp_path / "a", [0.5, 0.5, 0.5])
    few = compare_fleets(a, fleet(tmp_path / "b", [0.4, 0.5, 0.5]), BaselineConfig())
    assert few.changes["mAP"].p is None
    assert few.is_worse
    assert list(few.worst) == ["<drive & 0>"]
    failed = compare_fleets(a, fleet(tmp_path / "c", [0.5, 0.5, None]), BaselineConfig())
    assert failed.newly_failed == ("<drive & 2>",)
    assert failed.is_worse
    with pytest.raises(UsageError, match="no drive in common"):
        compare_fleets(a, fleet(tmp_path / "d", [None]), BaselineConfig())


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    config = BaselineConfig(resamples=300)
    covered = 0
    for _ in range(200):
        low, high, _ = bootstrap(rng.normal(0.1, 1.0, size=40), config, rng)
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99
