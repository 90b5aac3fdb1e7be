"""`perception convert` and `perception diff` as users call them, on computed and recorded drives."""

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Perception, Start

SHORT = "synthetic:seed=3,duration=1.5"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replay(perception: Perception, drive: str, results: str, *more: str) -> None:
    said = perception("replay", drive, "--placement", "local", "--queue", f"mcap:{results}", "--quiet", *more)
    assert said.code in (0, 3), said.err  # 3: the settings may cost messages


def account(out: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def test_a_drive_goes_to_mcap_to_nuscenes_and_back(perception: Perception, folder: Path) -> None:
    for source, target, streams in ((SHORT, "a.mcap", 14), ("a.mcap", "root", 12), ("root", "b.mcap", 13)):
        said = perception("convert", source, target, "--json")
        assert said.code == 0, said.err
        assert (account(said.out)["verified"], account(said.out)["differs"]) == (streams, [])
    assert sorted(path.name for path in folder.iterdir()) == ["a.mcap", "b.mcap", "root"]


def test_the_same_results_come_from_the_converted_drive(perception: Perception) -> None:
    """Which is what a regression test does: exit code 0, and 1 where a setting changed the results."""
    assert perception("convert", SHORT, "drive.mcap", "--quiet").code == 0
    replay(perception, SHORT, "direct.mcap")
    replay(perception, "drive.mcap", "converted.mcap")
    replay(perception, "drive.mcap", "other.mcap", "--set", "tracker.min_score=0.9", "--set", "sync.deadline_ms=5")
    exact = ["--position-m", "0", "--score", "0", "--yaw-rad", "0", "--path-m", "0"]
    said = perception("diff", "direct.mcap", "converted.mcap", *exact)
    assert said.code == 0, said.out
    assert "the same within the tolerance" in said.out
    said = perception("diff", "direct.mcap", "other.mcap", "--json")
    assert said.code == 1
    assert account(said.out)["sync_changes"]


@pytest.mark.parametrize(
    "name", ["pandaset-002", "aimotive-night", "kitti-object", "nuscenes-mini-1kf", "av2-7fab2350"]
)
def test_recorded_drives_are_kept_bit_by_bit(perception: Perception, drive_data: Path, name: str) -> None:
    said = perception("convert", str(drive_data / name), "drive.mcap", "--json")
    assert said.code == 0, said.err
    assert account(said.out)["differs"] == []
    assert account(said.out)["unreadable"] == 0


def test_results_of_a_recorded_drive_are_those_of_its_conversion(perception: Perception, drive_data: Path) -> None:
    assert perception("convert", str(drive_data / "pandaset-002"), "drive.mcap", "--quiet").code == 0
    replay(perception, str(drive_data / "pandaset-002"), "direct.mcap")
    replay(perception, "drive.mcap", "converted.mcap")
    said = perception("diff", "direct.mcap", "converted.mcap", "--position-m", "0", "--score", "0")
    assert said.code == 0, said.out


def test_a_batch_goes_on_behind_what_is_broken_and_what_is_done(perception: Perception, folder: Path) -> None:
    assert perception("convert", SHORT, "one.mcap", "--quiet").code == 0
    (folder / "two.mcap").write_bytes((folder / "one.mcap").read_bytes())
    (folder / "bad.mcap").write_bytes(b"nothing")
    said = perception("convert", "one.mcap", "bad.mcap", "two.mcap", "all", "--to", "mcap")
    assert said.code == 1
    assert "bad.mcap" in said.err
    assert sorted(path.name for path in (folder / "all").iterdir()) == ["one.mcap", "two.mcap"]
    said = perception("convert", "one.mcap", "two.mcap", "all", "--to", "mcap")
    assert said.code == 0
    assert said.out.count("it is there already") == 2


def test_a_killed_conversion_leaves_nothing_that_looks_whole(
    perception: Perception, start: Start, folder: Path
) -> None:
    process = start("convert", "synthetic:seed=3,duration=60", "drive.mcap")
    while not (folder / "drive.mcap.partial").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (folder / "drive.mcap").exists()
    assert perception("convert", SHORT, "drive.mcap").code == 0
    assert [path.name for path in folder.iterdir()] == ["drive.mcap"]


def test_a_part_of_a_drive_in_files_of_a_second(perception: Perception, folder: Path) -> None:
    said = perception(
        "convert", "synthetic:seed=3,duration=4", "part.mcap", "--start", "1", "--duration", "2.5", "--rotate-s", "1"
    )  # fmt: skip
    assert said.code == 0, said.err
    assert sorted(path.name for path in folder.iterdir()) == ["part.mcap", "part_0001.mcap", "part_0002.mcap"]
    assert "3 files" in said.out
    (folder / "part.mcap").rename(folder / "elsewhere.mcap")
    said = perception("convert", SHORT, "part.mcap", "--rotate-s", "1")
    assert said.code == 1
    assert "part_0001.mcap: it exists" in said.err


def test_what_could_not_be_read_ends_with_code_3(perception: Perception, folder: Path) -> None:
    assert perception("convert", SHORT, "root", "--quiet").code == 0
    image = next((folder / "root").rglob("*CAM_FRONT*/*.jpg"))
    image.write_bytes(image.read_bytes()[:300])
    said = perception("convert", "root", "drive.mcap")
    assert said.code == 3
    assert "1 could not be read" in said.out


WRONG = [
    (("convert", SHORT, "drive.db3"), "drive.db3"),
    (("convert", SHORT, "drive", "--to", "mcap"), "ends in .mcap"),
    (("convert", SHORT, SHORT, "all"), "--to mcap or --to nuscenes"),
    (("convert", "a/drive.mcap", "b/drive.mcap", "all", "--to", "mcap"), "would both become all/drive.mcap"),
    (("convert", "nowhere", "drive.mcap"), "nowhere: no such"),
    (("diff", "nowhere.mcap", "nowhere.mcap"), "nowhere.mcap: no such file"),
]


@pytest.mark.parametrize(("arguments", "why"), WRONG)
def test_wrong_use_is_told(perception: Perception, folder: Path, arguments: tuple[str, ...], why: str) -> None:
    said = perception(*arguments)
    assert said.code in (1, 2)
    assert why in said.err
    assert list(folder.iterdir()) == []


def test_files_without_results_cannot_be_compared(perception: Perception) -> None:
    assert perception("convert", SHORT, "drive.mcap", "--quiet").code == 0
    said = perception("diff", "drive.mcap", "drive.mcap")
    assert said.code == 2
    assert "drive.mcap" in said.err
