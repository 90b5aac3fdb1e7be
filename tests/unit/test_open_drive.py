"""Opening a drive from its path: detection, overrides, errors and third parties."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perception.config.schema import LatencyConfig
from perception.core.errors import DriveError, UsageError
from perception.core.ports import Source
from perception.sources.aimotive import AiMotiveSource
from perception.sources.kitti import KittiSource
from perception.sources.open import known_formats, open_drive
from perception.sources.pandaset import PandaSetSource
from tests.unit.small_aimotive import write_session
from tests.unit.small_kitti import write_split
from tests.unit.small_pandaset import write_sequence


def test_the_format_is_found_out(tmp_path: Path) -> None:
    pandaset, aimotive, kitti = tmp_path / "p", tmp_path / "a", tmp_path / "k"
    write_sequence(pandaset / "001")
    write_session(aimotive / "night")
    write_split(kitti)
    kinds: dict[Path, type] = {
        pandaset: PandaSetSource,
        pandaset / "001": PandaSetSource,
        aimotive: AiMotiveSource,
        aimotive / "night": AiMotiveSource,
        kitti: KittiSource,
        kitti / "training": KittiSource,
    }
    for path, kind in kinds.items():
        assert type(open_drive(path)) is kind


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="synthetic, nuscenes, pandaset, aimotive, kitti"):
        open_drive(tmp_path, format="waymo")


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DriveError, match=r"pandaset: lidar/poses\.json"):
        open_drive(tmp_path)


@pytest.mark.parametrize("format_name", [None, "pandaset", "kitti", "aimotive", "nuscenes"])
def test_a_missing_path_is_a_broken_drive(tmp_path: Path, format_name: str | None) -> None:
    with pytest.raises(DriveError, match="no such"):
        open_drive(tmp_path / "nowhere", format=format_name)


@pytest.mark.parametrize("format_name", ["pandaset", "kitti", "aimotive", "nuscenes"])
def test_the_wrong_format_is_a_broken_drive(tmp_path: Path, format_name: str) -> None:
    with pytest.raises(DriveError, match=str(tmp_path)):
        open_drive(tmp_path, format=format_name)


def test_latency_and_scene_reach_the_source(tmp_path: Path) -> None:
    write_sequence(tmp_path / "001")
    write_sequence(tmp_path / "002")
    source = open_drive(tmp_path, scene="002", latency=LatencyConfig(ego_ms=7.0))
    assert source.drive_id == "pandaset/002"
    first = next(iter(source.messages()))
    assert first.arrival_ns - first.capture_ns == 7_000_000


def test_a_synthetic_drive_takes_settings() -> None:
    assert open_drive("synthetic:seed=4,duration=0.5").drive_id == open_drive("synthetic:seed=4").drive_id
    assert open_drive("synthetic:").drive_id != open_drive("synthetic:seed=4").drive_id


@pytest.mark.parametrize("settings", ["speed=3", "seed=x", "seed=1.5", "duration=0", "duration=inf"])
def test_wrong_synthetic_settings_are_wrong_use(settings: str) -> None:
    with pytest.raises(UsageError, match="synthetic:"):
        open_drive(f"synthetic:{settings}")


_PLUGIN = """
from perception.sources.open import open_drive

def detect(path):
    return path.startswith("parrot:")

def open(path, options):
    return open_drive("synthetic:seed=9", latency=options.latency)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    info = site / "parrot-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[perception.sources]\nparrot = parrot_format\nbroken = no_such_module\n")
    (site / "parrot_format.py").write_text(_PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_third_party_format_is_found(plugin: Path, tmp_path: Path) -> None:
    assert {"parrot", "broken"} <= set(known_formats())
    with pytest.raises(UsageError, match="'broken'"):
        open_drive(tmp_path, format="broken")
    opened = open_drive("parrot:anything", format="parrot")
    assert isinstance(opened, Source)
    assert opened.drive_id == open_drive("synthetic:seed=9").drive_id
    (plugin / "parrot-1.0.dist-info" / "entry_points.txt").write_text("[perception.sources]\nparrot = parrot_format\n")
    assert open_drive("parrot:anything").drive_id == opened.drive_id


def test_looking_at_formats_imports_none_of_them() -> None:
    code = (
        "import sys; from perception.sources.open import known_formats; known_formats(); "
        "print({'laspy', 'pandas', 'torch', 'cv2', 'perception.sources.pandaset'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60, capture_output=True)
    assert done.stdout == b"set()\n"


def test_a_description_too_long_for_a_file_name_is_no_folder() -> None:
    text = "nothing:" + ",".join(f"setting{i}=1" for i in range(60))
    assert len(text) > 255
    with pytest.raises(DriveError, match="no such file or folder"):
        open_drive(text)
    with pytest.raises(DriveError, match="no such folder"):
        open_drive(text, format="nuscenes")
