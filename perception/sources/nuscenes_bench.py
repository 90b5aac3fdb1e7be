"""How long tables as large as those of the full nuScenes take to load, and how much memory."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from perception.core.errors import DriveError
from perception.sources.nuscenes import NuScenesSource

TRAINVAL_ROWS = 2_631_083
"""Rows of sample_data, and of ego_pose, in v1.0-trainval."""
VERSION = "v1.0-trainval"
_SCENE_ROWS = 3_096
_SAMPLE_ROWS = 77
_ANNOTATION_ROWS = 1_166_187
_CHANNELS = (
    *((name, "camera") for name in ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")),
    ("CAM_FRONT_LEFT", "camera"),
    ("LIDAR_TOP", "lidar"),
    *((f"RADAR_{place}", "radar") for place in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")),
)
_FIRST_US = 1_532_402_927_000_000
_STEP_US = 6_400
_CHUNK_ROWS = 20_000


def bench_nuscenes_tables(folder: Path, rows: int = TRAINVAL_ROWS) -> dict[str, float | int | str]:
    """Write tables with `rows` rows of sample_data under `folder` and load one scene of them in a child process.

    Returns rows, annotations, table_bytes, generate_s, load_s, peak_mib (of the child, interpreter included),
    baseline_mib (after its imports), scene and keyframes. The tables stay in `folder`. Raises DriveError where the
    child fails.
    """
    started = time.perf_counter()
    tables = write_tables(folder, rows)
    generate_s = time.perf_counter() - started
    command = (
        sys.executable,
        "-c",
        "import sys; from perception.sources.nuscenes_bench import report_load; report_load(sys.argv[1])",
        str(folder),
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if child.returncode:
        raise DriveError(f"loading {folder} failed: {child.stderr.strip()[-2000:]}")
    measured: dict[str, float | int | str] = json.loads(child.stdout)
    return {
        "rows": rows,
        "annotations": _annotation_rows(rows),
        "table_bytes": sum(path.stat().st_size for path in tables.glob("*.json")),
        "generate_s": generate_s,
        **measured,
    }


def report_load(folder: str) -> None:
    """Load the first scene and print what it took as JSON; runs in the child process."""
    baseline_mib = peak_mib()
    started = time.perf_counter()
    source = NuScenesSource(folder)
    load_s = time.perf_counter() - started
    print(
        json.dumps(
            {
                "load_s": load_s,
                "peak_mib": peak_mib(),
                "baseline_mib": baseline_mib,
                "scene": source.drive_id,
                "keyframes": len(source.label_times_ns),
            }
        )
    )


def peak_mib() -> float:
    """Peak resident memory. Linux keeps the parent's peak in `ru_maxrss` across exec, but not in VmHWM."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def write_tables(folder: Path, rows: int) -> Path:
    """Write the ten tables that a replay reads, laid out as the original ones; returns their folder."""
    tables = folder / VERSION
    tables.mkdir(parents=True, exist_ok=True)
    scenes, samples = -(-rows // _SCENE_ROWS), -(-rows // _SAMPLE_ROWS)
    makers: dict[str, tuple[Callable[[int], str], int]] = {
        "scene": (_scene, scenes),
        "sample": (lambda i: _sample(i, samples), samples),
        "sample_data": (lambda i: _sample_data(i, rows), rows),
        "ego_pose": (_ego_pose, rows),
        "calibrated_sensor": (_calibrated_sensor, scenes * len(_CHANNELS)),
        "sensor": (_sensor, len(_CHANNELS)),
        "sample_annotation": (lambda i: _annotation(i, samples), _annotation_rows(rows)),
        "instance": (_instance, -(-_annotation_rows(rows) // 18)),
        "category": (lambda i: f'"token": "{_token("category", i)}",\n"name": "vehicle.car"', 1),
        "attribute": (lambda i: f'"token": "{_token("attribute", i)}",\n"name": "vehicle.moving"', 1),
    }
    for table, (maker, count) in makers.items():
        with (tables / f"{table}.json").open("w", encoding="utf-8") as file:
            file.write("[\n")
            texts = (("{\n" + maker(i) + "\n}") for i in range(count))
            separator = ""
            for chunk in _chunks(texts):
                file.write(separator + ",\n".join(chunk))
                separator = ",\n"
            file.write("\n]")
    return tables


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, _CHUNK_ROWS)):
        yield chunk


def _annotation_rows(rows: int) -> int:
    return rows * _ANNOTATION_ROWS // TRAINVAL_ROWS


def _token(table: str, number: int) -> str:
    return f"{table:z<16.16}{number:016x}"


def _link(table: str, number: int, count: int) -> str:
    return _token(table, number) if 0 <= number < count else ""


def _scene_of(row: int) -> int:
    return row // _SCENE_ROWS


def _scene(i: int) -> str:
    return f'"token": "{_token("scene", i)}",\n"log_token": "",\n"nbr_samples": 40,\n"name": "scene-{i:04d}"'


def _sample(i: int, count: int) -> str:
    return (
        f'"token": "{_token("sample", i)}",\n"timestamp": {_FIRST_US + i * _SAMPLE_ROWS * _STEP_US},\n'
        f'"prev": "{_link("sample", i - 1, count)}",\n"next": "{_link("sample", i + 1, count)}",\n'
        f'"scene_token": "{_token("scene", _scene_of(i * _SAMPLE_ROWS))}"'
    )


def _sample_data(i: int, count: int) -> str:
    channel, modality = _CHANNELS[i % len(_CHANNELS)]
    is_key = i % _SAMPLE_ROWS < len(_CHANNELS)
    suffix = {"camera": "jpg", "lidar": "pcd.bin", "radar": "pcd"}[modality]
    height, width = (900, 1600) if modality == "camera" else (0, 0)
    time_us = _FIRST_US + i * _STEP_US
    calibration = _scene_of(i - i % _SAMPLE_ROWS) * len(_CHANNELS) + i % len(_CHANNELS)
    return (
        f'"token": "{_token("sample_data", i)}",\n"sample_token": "{_token("sample", i // _SAMPLE_ROWS)}",\n'
        f'"ego_pose_token": "{_token("ego_pose", i)}",\n'
        f'"calibrated_sensor_token": "{_token("calibrated_sensor", calibration)}",\n"timestamp": {time_us},\n'
        f'"fileformat": "{suffix[:3]}",\n"is_key_frame": {"true" if is_key else "false"},\n'
        f'"height": {height},\n"width": {width},\n"filename": "{"samples" if is_key else "sweeps"}/{channel}/'
        f'n015-2018-07-24-11-22-45+0800__{channel}__{time_us}.{suffix}",\n'
        f'"prev": "{_link("sample_data", i - 12, count)}",\n"next": "{_link("sample_data", i + 12, count)}"'
    )


def _ego_pose(i: int) -> str:
    return (
        f'"token": "{_token("ego_pose", i)}",\n"timestamp": {_FIRST_US + i * _STEP_US},\n'
        '"rotation": [\n0.5720320396729045,\n-0.0016977771610471074,\n0.011798001930183783,\n-0.8201446642457809\n],\n'
        f'"translation": [\n{411.3039349319818 + i * 0.05},\n1180.8903791765097,\n0.0\n]'
    )


def _calibrated_sensor(i: int) -> str:
    number = i % len(_CHANNELS)
    is_camera = _CHANNELS[number][1] == "camera"
    intrinsic = "[[1266.417203046554, 0.0, 816.26701], [0.0, 1266.417203046554, 491.50706], [0.0, 0.0, 1.0]]"
    return (
        f'"token": "{_token("calibrated_sensor", i)}",\n"sensor_token": "{_token("sensor", number)}",\n'
        '"translation": [1.7, 0.0, 1.5],\n"rotation": [0.5, -0.5, 0.5, -0.5],\n'
        f'"camera_intrinsic": {intrinsic if is_camera else "[]"}'
    )


def _sensor(i: int) -> str:
    channel, modality = _CHANNELS[i]
    return f'"token": "{_token("sensor", i)}",\n"channel": "{channel}",\n"modality": "{modality}"'


def _annotation(i: int, samples: int) -> str:
    return (
        f'"token": "{_token("sample_annotation", i)}",\n"sample_token": "{_token("sample", i % samples)}",\n'
        f'"instance_token": "{_token("instance", i // 18)}",\n"visibility_token": "4",\n'
        f'"attribute_tokens": [\n"{_token("attribute", 0)}"\n],\n'
        '"translation": [\n373.256,\n1130.419,\n0.8\n],\n"size": [\n0.621,\n0.669,\n1.642\n],\n'
        '"rotation": [\n0.9831098797903927,\n0.0,\n0.0,\n-0.18301629506281616\n],\n'
        f'"prev": "",\n"next": "",\n"num_lidar_pts": {i % 50},\n"num_radar_pts": 0'
    )


def _instance(i: int) -> str:
    return f'"token": "{_token("instance", i)}",\n"category_token": "{_token("category", 0)}",\n"nbr_annotations": 18'
