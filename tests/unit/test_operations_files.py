"""The unit, the container file and the dashboard in docs/operations, checked by their own tools where there are any."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perception.core.supervision import SupervisionState
from perception.runtime.metrics import Depths, ServiceMetrics
from tests.conftest import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "docs" / "operations"
SUFFIXES = ("_bucket", "_count", "_sum", "_total")


def known_metrics() -> set[str]:
    """Every metric of the service, as Prometheus names its samples."""
    metrics = ServiceMetrics()
    metrics.watch_depths(lambda: {"anna": Depths(frames=0, waiting=0)})
    state = SupervisionState(restarts={"all": 1}, hung=0, quarantined=0, recovering=(), last_outage_s=None, pids={})
    metrics.watch_engine(lambda: state)
    names = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:perception|process)_[a-z_]+\b", text))


def queries() -> list[str]:
    board = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return found + [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    labels = {"perception_vehicle_state"}  # the label of the metric of that name
    asked = set().union(*map(named_in, queries()))
    assert len(asked) > 15
    assert asked - known_metrics() - labels == set()


def test_every_metric_is_on_the_dashboard_or_about_the_process() -> None:
    shown = set().union(*map(named_in, queries()))
    base = {name.removesuffix(suffix) for name in shown for suffix in SUFFIXES if name.endswith(suffix)} | shown
    missing = {
        name
        for name in known_metrics()
        if not name.startswith("process_")
        and name not in shown
        and not any(name.endswith(suffix) and name.removesuffix(suffix) in base for suffix in SUFFIXES)
    }
    assert missing == {"perception_sensor_present", "perception_device_memory_bytes"}


def test_the_documentation_lists_every_metric() -> None:
    text = (PROJECT_ROOT / "docs" / "operations.md").read_text()
    names = {name for name in known_metrics() if name.startswith("perception_")}
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert {name for name in plain if f"`{name}`" not in text} == set()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / "perception.service"
    text = (FOLDER / "perception.service").read_text()
    assert "/opt/perception/bin/perception" in text
    # It looks whether the program is there.
    unit.write_text(text.replace("/opt/perception/bin/perception", sys.executable))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_container_file_passes_its_linter() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here")
    said = subprocess.run([linter, FOLDER / "Containerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def test_the_container_file_copies_what_exists_and_what_the_wheel_needs() -> None:
    text = (FOLDER / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert all((PROJECT_ROOT / name).exists() for name in copied)
    assert {"perception", "sim", "configs", "pyproject.toml", "LICENSE", "README.md"} <= set(copied)
