"""The worked example of a format of one's own: found as a plug-in, replayed, and clear about bad input."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from perception import open_drive
from perception.core.errors import DriveError
from perception.core.messages import Unreadable
from perception.sources.open import GROUP
from tests.conftest import PROJECT_ROOT
from tests.integration.conftest import Perception
from tests.unit.plain_folder_drive import write_plain_folder

PLUGIN = PROJECT_ROOT / "docs" / "source_plugin"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in, as if it were installed."""
    monkeypatch.syspath_prepend(PLUGIN)
    point = EntryPoint(name="plain", value="plain_folder", group=GROUP)
    monkeypatch.setattr("perception.sources.open.entry_points", lambda group: [point] if group == GROUP else [])


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_plain_folder(tmp_path / "drive")


def test_it_is_found_and_replays(drive: Path, perception: Perception) -> None:
    said = perception("replay", str(drive), "--placement", "local", "--queue", "memory:plain", "--json")
    assert said.code == 0, said.err
    assert '"completed"' in said.out


def test_it_installs_as_a_package(tmp_path: Path) -> None:
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    built = subprocess.run(pip, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"pip could not build it here: {built.stderr[-300:]}")
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); "
        "from perception.sources.open import known_formats; print('plain' in known_formats())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


def test_files_that_cannot_be_read_are_reported(drive: Path) -> None:
    image, points = sorted((drive / "CAM_FRONT").iterdir())[0], sorted((drive / "LIDAR_TOP").iterdir())
    image.write_bytes(image.read_bytes()[:500])
    np.save(points[0], np.zeros((5, 3), dtype=np.float32))
    points[1].write_bytes(b"not an array")
    errors = [message.error for message in open_drive(drive).messages() if isinstance(message, Unreadable)]
    assert len(errors) == 3
    assert all(any(str(path) in error for error in errors) for path in (image, points[0], points[1]))


BROKEN = [
    ("rig.yaml", r"(?s).*", "sensors: [1, 2]", "rig.yaml"),
    ("rig.yaml", "kind: lidar", "kind: sonar", "sonar"),
    ("rig.yaml", "focal_px", "focus", "focal_px"),
    ("poses.csv", "qw", "w", "columns are"),
    ("poses.csv", r"\n\d+,", "\n1,nowhere", "nowhere"),
]


@pytest.mark.parametrize(("file", "what", "by", "why"), BROKEN)
def test_a_broken_drive_is_refused_by_name(drive: Path, file: str, what: str, by: str, why: str) -> None:
    text = (drive / file).read_text()
    (drive / file).write_text(re.sub(what, by, text, count=1))
    assert (drive / file).read_text() != text
    with pytest.raises(DriveError, match=why):
        open_drive(drive)


def test_a_file_that_is_not_named_by_its_time_is_refused(drive: Path) -> None:
    points = next((drive / "LIDAR_TOP").iterdir())
    points.rename(points.with_name("first.npy"))
    with pytest.raises(DriveError, match=r"first\.npy: the name must be a time in nanoseconds"):
        open_drive(drive)
