"""A live run is recorded and decided again, as users do it."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Perception

DRIVE = "synthetic:seed=3,duration=1.5"
EXACT = ("--position-m", "1e-4", "--score", "1e-4", "--yaw-rad", "1e-4", "--path-m", "1e-4", "--velocity-mps", "1e-4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decisions")


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture
def live(perception: Perception, folder: Path) -> dict[str, object]:
    """The account of a live run at eight times the drive's pace, recorded once for all tests."""
    account = folder / "account.json"
    if not account.exists():
        said = perception(
            "replay", DRIVE, "--placement", "local", "--live", "--rate", "8", "--record", "run.mcap",
            "--queue", "mcap:live.mcap", "--json", "--set", "ladder.cameras=[3, 1]",
        )  # fmt: skip
        assert said.code == 3, said.err
        account.write_text(said.out.splitlines()[-1])
    found: dict[str, object] = json.loads(account.read_text())
    return found


@pytest.mark.parametrize("arguments", [("run.mcap", "--decisions"), (DRIVE, "--decisions", "run.mcap")])
def test_it_gives_the_same_results(perception: Perception, live: dict[str, object], arguments: tuple[str, ...]) -> None:
    results = f"again-{len(arguments)}.mcap"
    said = perception("replay", *arguments, "--placement", "local", "--queue", f"mcap:{results}", "--json")
    assert said.code == 3, said.err
    again = json.loads(said.out.splitlines()[-1])
    account = again["account"]
    assert account["is_exact"]
    assert account["bundles_dropped"]
    if live["jumped_s"] == 0:
        assert account == live["account"]
    assert (again["frames"], again["dropped"]) == (live["frames"], live["dropped"])
    said = perception("diff", "live.mcap", results, *EXACT)
    assert said.code == 0, said.out


def test_what_does_not_fit_is_refused(perception: Perception, live: dict[str, object]) -> None:
    more = ("--placement", "local", "--queue", "mcap:none.mcap")
    for arguments, code, reason in (
        (("synthetic:seed=4,duration=1.5", "--decisions", "run.mcap"), 1, "the run had drive 'synthetic/3'"),
        (("run.mcap", "--decisions", "--set", "sync.deadline_ms=80"), 1, "sync.deadline_ms was 150.0, here it is 80.0"),
        (("run.mcap", "--decisions", "--live"), 2, "--live does not go with --decisions"),
        (("run.mcap", "--decisions", "nowhere.mcap"), 2, "nowhere.mcap: no such file"),
        ((DRIVE, "--decisions"), 2, "no such file"),
    ):
        said = perception("replay", *arguments, *more)
        assert (said.code, reason in said.err) == (code, True), said.err


def test_a_recording_that_was_not_live_holds_no_decisions(perception: Perception) -> None:
    short = "synthetic:seed=3,duration=0.3"
    said = perception(
        "replay", short, "--placement", "local", "--record", "calm.mcap", "--queue", "memory:x", "--quiet"
    )
    assert said.code == 0, said.err
    said = perception("replay", "calm.mcap", "--decisions", "--placement", "local", "--queue", "memory:x")
    assert said.code == 1
    assert "it holds no decisions; record a live run" in said.err
