"""What `perception sim` says and leaves behind when something is wrong, through its real command line."""

import errno
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.core.errors import DriveError
from perception.core.messages import LidarSweep
from perception.sources.open import open_drive
from sim.world_log import Header, WorldLogWriter, read_steps
from tests.integration.conftest import Perception
from tests.unit.sim_situations import StraightWorld

if importlib.util.find_spec("libsumo") is None:  # loaded here, it would warn of other versions of Arrow
    pytest.skip("needs libsumo", allow_module_level=True)


MOUNT = {"x_m": 1.0, "y_m": 0.0, "z_m": 1.6}
OPTICS: dict[str, Any] = {"fx": 40.0, "fy": 40.0, "cx": 32.0, "cy": 12.0}
LIDAR: dict[str, Any] = {
    "type": "lidar", "name": "lidar", "mount": MOUNT, "timing": {"rate_hz": 10}, "beams": 32, "columns": 180,
}  # fmt: skip
CAMERA: dict[str, Any] = {
    "type": "camera", "name": "front", "mount": MOUNT, "timing": {"rate_hz": 5}, "width_px": 64, "height_px": 32,
    "intrinsics": OPTICS,
}  # fmt: skip
BARE = (
    "--sim-set",
    "scenery.buildings=false",
    "--sim-set",
    "scenery.trees_per_km=0",
    "--sim-set",
    "traffic.warmup_s=2",
)
LOCAL = ("--placement", "local", "--queue", "memory:errors", "--set", "queue.linger_s=0")


def _rig(folder: Path, *sensors: dict[str, Any]) -> str:
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump({"sensors": list(sensors)}))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--map", "nowhere"), ('map="nowhere": map: no such map', "town_grid", "town_irregular", ".xodr")),
        (("--map", "{folder}/no.net.xml"), ("no.net.xml", "neither a file nor one of", "roundabouts")),
        (("--map", "{folder}/routes.net.xml"), ("routes.net.xml", "<routes>", "a SUMO network has <net>")),
        (("--map", "{folder}/bytes.net.xml"), ("bytes.net.xml", "not a readable SUMO network")),
        (("--rig", "tinny"), ("'tinny'", "nuscenes", "tiny")),
        (("--scenario", "nightt"), ("'nightt'", "night_rain")),
        (
            ("--scenario", "{folder}/wrong.yaml"),
            (
                "wrong.yaml: loop",
                "'open', 'lockstep' or 'async'",
                "weather.kind",
                "'fog'",
                "traffic.cars",
                "max_vehicles",
            ),
        ),
        (("--sim-set", "faults=[{{type: drop, sensors: [LIDRA]}}]"), ("faults.0.sensors", "'LIDRA'", "LIDAR_TOP")),
        (("--sim-set", "faults=[{{type: melt}}]"), ("faults.0", "'melt'", "'drop', 'delay'")),
        (("--duration", "0"), ("--duration", "x>0")),
        (("--duration", "inf"), ("duration_s", "finite")),
        (("--seed", "3000000000"), ("seed", "less than 2147483648")),
        (("--video", "/proc/nobody/video.mp4"), ("--video /proc/nobody", "cannot be made")),
        (("--video", "{folder}/taken.mp4"), ("taken.mp4", "cannot be written", "choose another folder")),
        (("--video", "{folder}/video.avi"), ("video.avi", "must end in .mp4")),
        (("--pictures", "{folder}/wrong.yaml"), ("--pictures", "wrong.yaml", "cannot be made")),
        (("--record", "{folder}"), ("--record", "choose another name")),
        (("--held-out",), ("--routes",)),
        (("--map", "rural", "--map", "motorway"), ("--routes",)),
        (("--routes", "2", "--open-loop"), ("--routes", "closed loops")),
        (("--routes", "2", "--record", "{folder}/drive"), ("--routes", "nothing is recorded")),
        (("--routes", "2", "--map", "rural", "--map", "atlantis"), ("atlantis", "town_grid")),
    ],
)
def test_wrong_use_names_what_is_wrong_and_what_is_allowed(
    perception: Perception, tmp_path: Path, arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    (tmp_path / "routes.net.xml").write_text("<routes/>")
    (tmp_path / "bytes.net.xml").write_bytes(b"\x00\xff no text")
    (tmp_path / "wrong.yaml").write_text("loop: closed\nweather: {kind: hail}\ntraffic: {cars: 3}\n")
    (tmp_path / "taken.mp4").mkdir()
    code, _, err = perception("sim", *LOCAL, *(argument.format(folder=tmp_path) for argument in arguments))
    assert code == 2
    assert "Traceback" not in err
    for part in says:
        assert part in err


@pytest.mark.parametrize(
    ("sensors", "says"),
    [
        ([{**CAMERA, "intrinsics": {**OPTICS, "fx": -40.0}}], ("sensors.0.camera.intrinsics.fx", "greater than 0")),
        ([{**CAMERA, "intrinsics": {**OPTICS, "fx": float("inf")}}], ("intrinsics.fx", "finite")),
        ([{**CAMERA, "mount": {**MOUNT, "x_m": float("nan")}}], ("sensors.0.camera.mount.x_m",)),
        ([{**LIDAR, "mount": {**MOUNT, "yaw_deg": float("inf")}}], ("sensors.0.lidar.mount.yaw_deg",)),
        (
            [{**CAMERA, "intrinsics": {**OPTICS, "projection": "brown", "distortion": [-4.0, 0.0, 0.0, 0.0]}}],
            ("sensors.0.camera", "impossible calibration", "check intrinsics.distortion"),
        ),
        ([{**CAMERA, "width_px": 0}], ("sensors.0.camera.width_px", "greater than or equal to 16")),
        ([{**CAMERA, "type": "sonar"}], ("sensors.0", "'sonar'", "'camera', 'lidar', 'radar'")),
        ([{"name": "front"}], ("sensors.0", "'type'")),
        ([LIDAR, CAMERA, {**CAMERA, "height_px": 48}], ("'front' is taken", "names must differ")),
        ([], ("sensors", "at least 1")),
    ],
)
def test_a_rig_that_cannot_be_is_refused(
    perception: Perception, tmp_path: Path, sensors: list[dict[str, Any]], says: tuple[str, ...]
) -> None:
    code, _, err = perception("sim", "--rig", _rig(tmp_path, *sensors), *LOCAL)
    assert code == 2
    assert "rig.yaml: " in err
    assert len(err) < 400
    for part in says:
        assert part in err


def test_opendrive_that_netconvert_rejects_is_named_with_its_reason(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sumo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "broken.xodr").write_text("<OpenDRIVE><road></OpenDRIVE>")
    code, _, err = perception("sim", "--map", str(tmp_path / "broken.xodr"), *LOCAL)
    assert code == 2
    assert "broken.xodr: this OpenDRIVE file cannot be converted" in err
    assert "'id' is missing in definition of a road" in err
    assert not list((tmp_path / "cache").rglob("*.xml"))


def test_opendrive_without_netconvert_says_how_to_get_it(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "sumo", None)
    (tmp_path / "road.xodr").write_text("<OpenDRIVE/>")
    code, _, err = perception("sim", "--map", str(tmp_path / "road.xodr"), *LOCAL)
    assert code == 2
    assert "road.xodr" in err
    assert "pip install eclipse-sumo" in err


def test_without_sumo_the_command_that_installs_it_is_named() -> None:
    block = "import sys; sys.modules['libsumo'] = None; from perception.cli.main import main; main()"
    command = [sys.executable, "-c", block, "sim", *LOCAL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 2
    assert done.stderr == "error: traffic needs SUMO, which runs in a process of its own: pip install libsumo\n"


def test_a_sumo_that_does_not_load_says_why(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libsumo.py").write_text("raise ImportError('libX11.so.6: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = perception("sim", "--routes", "1", "--map", "rural")
    assert code == 1
    assert "libX11.so.6" in err
    assert "perception doctor" in err


class _SmallDisk:
    """Lets a folder grow to some size, then refuses as a full disk does: with part of the file written.

    From then on it is full to the last byte, and takes no more than is deleted.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._write_bytes = Path.write_bytes

    def write_bytes(self, path: Path, data: bytes) -> int:
        if path.is_relative_to(self._folder):
            used = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
            if used + len(data) > self._size:
                self._size = used
                self._write_bytes(path, data[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return self._write_bytes(path, data)


def test_what_was_recorded_when_the_disk_filled_up_replays(
    perception: Perception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "drive"
    disk = _SmallDisk(root, 5_000_000)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: disk.write_bytes(path, data))
    rig = _rig(tmp_path, LIDAR, CAMERA)
    code, _, err = perception(
        "sim", "--rig", rig, "--record", str(root), "--duration", "8", "--seed", "5", *BARE, *LOCAL
    )
    monkeypatch.undo()
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {root}")
    assert os.strerror(errno.ENOSPC) in err
    assert "what was recorded before stays" in err
    files = list(root.rglob("*.pcd.bin"))
    source = open_drive(str(root))
    sweeps = [message for message in source.messages() if isinstance(message, LidarSweep)]
    assert 5 <= len(sweeps) == len(files) < 80
    assert all(len(sweep.points_m) > 500 for sweep in sweeps)
    labels = source.labels(source.label_times_ns[0])
    assert labels is not None
    assert len(labels)
    source.close()
    assert not [path for path in root.rglob("*") if path.suffix in (".tmp", ".spare")]


class _FullFile(io.FileIO):
    """Refuses to grow beyond some size."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_world_log_that_filled_the_disk_reads_to_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "drive.wlog"
    world = StraightWorld([(i, "car", 6.0 * i, 8.0, 0.1, 3.0) for i in range(20)])
    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedWriter(_FullFile(path, mode)))
    writer = WorldLogWriter(path, Header(scenario={}))

    def write_on() -> Iterator[int]:
        for step in range(200):
            writer.write(world.actors_at(step * 100_000_000), [world.ego_at(step * 100_000_000)], {})
            yield step

    steps = write_on()
    written: list[int] = []
    with pytest.raises(DriveError, match=r"drive\.wlog: cannot write the world log: .*No space left"):
        written.extend(steps)
    writer.close()
    monkeypatch.undo()
    assert writer.is_closed
    assert len(list(read_steps(path))) == len(written) > 1
