"""`perception view` for real: recordings, a live queue with sensors, and the web viewer in a headless Chromium."""

import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
from perception.queues.sensor_channel import open_sensor_channel
from perception.sources.synthetic import SyntheticSource
from perception.viewer.colors import CLASS_COLORS
from perception.viewer.drive_scenes import Part, drive_scenes
from perception.viewer.scene_wire import encode_scene
from tests.integration.conftest import Perception, Start

DRIVE = "synthetic:seed=3,duration=1"
HAS_RERUN = importlib.util.find_spec("rerun") is not None
needs_rerun = pytest.mark.skipif(not HAS_RERUN, reason="needs rerun-sdk (pip install 'perception[viewer]')")
CHROMIUM = shutil.which("chromium")
SOFTWARE_GL = (
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--no-sandbox",
)  # fmt: skip


def _entities(path: Path) -> dict[str, int]:
    """Rows of each entity in a recording."""
    from rerun.chunk import RrdReader

    rows: dict[str, int] = {}
    for chunk in RrdReader(path).stream():
        if not chunk.is_static:
            rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
    return rows


def test_without_rerun_it_says_how_to_get_it(perception: Perception, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rerun" else find_spec(name))
    said = perception("view", DRIVE)
    assert said.code == 2
    assert "pip install 'perception[viewer]'" in said.err


@needs_rerun
def test_a_drive_is_saved_with_sensors_and_labels(perception: Perception, tmp_path: Path) -> None:
    path = tmp_path / "drive.rrd"
    assert perception("view", DRIVE, "--save", str(path), "--max-points", "2000", "--stride", "4").code == 0
    rows = _entities(path)
    assert rows["/world/ego/lidar"] == rows["/cameras/CAM_FRONT"] == 5
    assert rows["/world/truth"] >= 5
    assert "/world/ego/detections" not in rows


@needs_rerun
def test_a_results_file_is_shown_as_far_as_it_goes(perception: Perception, tmp_path: Path) -> None:
    queue = open_queue(f"mcap:{tmp_path / 'results.mcap'}")
    for sequence in range(3):
        queue.publish(sample_result(np.random.default_rng(0), sequence=sequence))
    queue.close()
    saved = tmp_path / "results.rrd"
    said = perception("view", str(tmp_path / "results.mcap"), "--save", str(saved))
    assert said.code == 0
    assert "before the end of its run" in said.err
    assert _entities(saved)["/world/ego/detections"] == 3


@needs_rerun
def test_options_of_drives_are_refused_for_queues(perception: Perception) -> None:
    said = perception("view", "memory:view-options", "--start", "5")
    assert (said.code, "go with a drive, not memory:view-options" in said.err) == (2, True)


@needs_rerun
def test_a_live_queue_shows_results_and_the_sensors_beside_them(perception: Perception, tmp_path: Path) -> None:
    url, saved = "memory:view-live", tmp_path / "live.rrd"
    scenes = list(drive_scenes(SyntheticSource(seed=3, duration_s=0.4), Part()))
    queue, channel = open_queue(url), open_sensor_channel(url, QueueConfig())

    def produce() -> None:
        while not (queue.has_consumer() and channel.has_consumer()):
            threading.Event().wait(0.01)
        for scene in scenes:
            channel.send(encode_scene(scene, "run-0"))
            queue.publish(sample_result(np.random.default_rng(0), sequence=scene.sequence))
        channel.send(b"no payload")
        queue.close()

    producer = threading.Thread(target=produce)
    producer.start()
    assert perception("view", url, "--save", str(saved), "--timeout", "20").code == 0
    producer.join()
    channel.close()
    rows = _entities(saved)
    assert rows["/world/ego/detections"] == rows["/cameras/CAM_FRONT"] == rows["/world/ego/lidar"] == len(scenes)
    assert rows["/plots/dropped/late"] == len(scenes), "a result counts once, with its sensors or without"


def test_only_queues_that_can_carry_sensors_are_asked_to() -> None:
    with pytest.raises(UsageError, match="nats: carries results only"):
        open_sensor_channel("nats:results", QueueConfig())


@needs_rerun
def test_a_port_that_is_taken_is_refused(perception: Perception) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = perception("view", DRIVE, "--web", "--port", str(port))
    assert said.code == 2
    assert f"--port {port}: cannot be used" in said.err


@needs_rerun
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_a_browser_shows_the_scene_and_nothing_listens_beyond_loopback(start: Start, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    queue = open_queue(f"mcap:{tmp_path / 'results.mcap'}")
    queue.publish(sample_result(np.random.default_rng(0), sequence=0))
    queue.close()
    process = start("view", str(tmp_path / "results.mcap"), "--web", "--port", str(port), "--min-score", "0")
    page_url = _page_url(process)
    listening = _listening_addresses(port, int(page_url.rpartition("%3A")[2].partition("%2F")[0]))
    assert listening == {"0100007F"}, "127.0.0.1, as the kernel writes it"
    shot = tmp_path / "viewer.png"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SOFTWARE_GL))
        page = browser.new_page(viewport={"width": 1000, "height": 700}, color_scheme="dark")
        page.goto(page_url)
        for _ in range(60):
            page.wait_for_timeout(1000)
            page.screenshot(path=shot)
            if _class_colors(shot) >= 3:
                break
        browser.close()
    assert _class_colors(shot) >= 3, "boxes of several classes are on the canvas"
    picture = cv2.imread(str(shot))
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def _page_url(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"open (http://127\.0\.0\.1:\S+)", line):
            return found[1]
    pytest.fail("the command ended before it served anything")


def _listening_addresses(*ports: int) -> set[str]:
    """Local addresses of the sockets that listen on these ports, as Linux lists them."""
    lines = [*Path("/proc/net/tcp").read_text().splitlines(), *Path("/proc/net/tcp6").read_text().splitlines()]
    rows = [line.split() for line in lines if " 0A " in line]
    return {row[1].split(":")[0] for row in rows if int(row[1].split(":")[1], 16) in ports}


def _class_colors(path: Path) -> int:
    """How many colours of classes the picture has, each at 20 pixels or more."""
    picture = cv2.imread(str(path))
    assert picture is not None
    pixels = picture[..., ::-1].reshape(-1, 3).astype(int)
    return sum(int((np.abs(pixels - color).max(axis=1) <= 6).sum()) >= 20 for color in CLASS_COLORS)
