"""Drives as MCAP, measured: sizes, time to convert, equal results, reading speed, and a large file."""

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perception.config.schema import ServiceConfig
from perception.core.errors import DriveError, PerceptionError
from perception.core.ports import Engine, Source
from perception.core.results import PerceptionResult
from perception.evaluation.bench_large_file import bench_large_file
from perception.evaluation.run_diff import RunDiff, Tolerance, diff_runs
from perception.pipeline.conversion import convert_drive, tally
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.recorders.mcap import McapRecorder
from perception.recorders.ros_sensor_bag import write_sensor_bag
from perception.sources.bench_reading import bag_reading_speed, drive_reading_speed
from perception.sources.open import open_drive

REAL_DRIVES: Final = ("nuscenes-mini-1kf", "pandaset-002", "aimotive-night", "kitti-object", "av2-7fab2350")
"""Folders of real recorded drives that `data` may hold."""
EXACT: Final = Tolerance(
    position_m=0.0, size_ratio=0.0, yaw_rad=0.0, velocity_mps=0.0, score=0.0, path_m=0.0, speed_mps=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingsPlan:
    """What is measured. seconds: of the generated drive. rounds: of reading. data: folder of the real drives.

    large_bytes: size of the large file, 0 for none. folder: where files are written, None for a temporary folder.
    """

    seconds: float = 5.0
    rounds: int = 7
    data: Path | None = None
    large_bytes: int = 0
    folder: Path | None = None


def bench_recordings(plan: RecordingsPlan, engine: Engine, config: ServiceConfig) -> dict[str, Any]:
    """Measure all of it with one engine; files are deleted afterwards.

    Returns `drives` and `reading` (a row for each drive), `bags`, `skipped` (drive to reason), `large` (None without).
    Raises DriveError where the generated drive or the large file cannot be written.
    """
    generated = f"synthetic:seed=1,duration={plan.seconds:g}"
    found, skipped = _real_drives(plan.data)
    figures: dict[str, Any] = {"drives": {}, "reading": {}, "bags": {}, "skipped": skipped, "large": None}
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix="bench-recordings-") as temporary:
        for name, drive in {"generated": generated, **found}.items():
            folder = Path(temporary) / name
            try:
                with contextlib.closing(open_drive(drive)) as source:
                    figures["drives"][name] = _measure_drive(source, drive, folder / "drive.mcap", engine, config)
                    figures["reading"][name] = drive_reading_speed(folder / "drive.mcap", plan.rounds)
                    if name == "generated":
                        write_sensor_bag(folder / "bag", source.rig, source.messages())
                        figures["bags"][name] = bag_reading_speed(folder / "bag", plan.rounds)
            except PerceptionError as error:
                if name == "generated":
                    raise
                skipped[name] = str(error)
        if plan.large_bytes:
            figures["large"] = bench_large_file(Path(temporary) / "large.mcap", plan.large_bytes)
    return figures


def _real_drives(data: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Paths of the real drives that are there, and why the others are not measured."""
    if data is None:
        return {}, dict.fromkeys(REAL_DRIVES, "no folder of real drives; name one with --data or DRIVE_DATA")
    folders = {name: data / name for name in REAL_DRIVES}
    found = {name: str(folder) for name, folder in folders.items() if folder.is_dir()}
    return found, {name: f"no folder {folder}" for name, folder in folders.items() if name not in found}


def _measure_drive(source: Source, drive: str, path: Path, engine: Engine, config: ServiceConfig) -> dict[str, Any]:
    begun = time.perf_counter()
    recorder = McapRecorder(path, source.rig, source.drive_id, notes=source.notes)
    with contextlib.closing(recorder):
        written = convert_drive(source, recorder)
    convert_s = time.perf_counter() - begun
    with contextlib.closing(open_drive(path)) as recorded:
        read = tally(recorded.messages())
        changed = sorted(name for name in written.keys() | read.keys() if _digest(written, name) != _digest(read, name))
        found = diff_runs(_results(source, engine, config), _results(recorded, engine, config), EXACT)
    return {
        "original_bytes": _bytes_below(Path(drive)),
        "payload_bytes": sum(sensor.payload_bytes for sensor in written.values()),
        "mcap_bytes": path.stat().st_size,
        "messages": sum(sensor.messages for sensor in written.values()),
        "convert_s": convert_s,
        "changed_streams": changed,
        "results": _account(found),
    }


def _digest(tallies: Any, name: str) -> str | None:
    return tallies[name].digest if name in tallies else None


def _bytes_below(path: Path) -> int | None:
    """Of a drive's files; None where it has none."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else None


def _results(source: Source, engine: Engine, config: ServiceConfig) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    run_drive(
        source, engine, config, run_id="bench", on_result=results.append, options=ReplayOptions(rate=float("inf"))
    )
    if not results:
        raise DriveError(f"{source.drive_id}: no result came of it")
    return results


def _account(found: RunDiff) -> dict[str, Any]:
    """How far the two replays are apart."""
    largest = max(spread.largest for spread in found.spreads.values())
    return {
        "frames": found.frames,
        "boxes": found.boxes,
        "largest_difference": largest,
        "is_equal": found.is_same,
        "beyond": list(found.beyond),
    }
