"""From drives on disk and in the simulator to training frames, by processes that read beside each other and may die."""

import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from perception.config.training import DataConfig, TrainingConfig
from perception.models.boxes import CENTER
from perception.sources.synthetic import SyntheticSource
from perception.training.cleaning import Rule
from perception.training.dataset import prepare
from tests.model_samples import TINY
from tests.unit.nuscenes_roots import record, rewrite, sensor_files, small_rig, table

SIMULATED = "sim:tiny,seed=3,duration_s=1.5"


def config(store: Path, *drives: str, workers: int, validation: tuple[str, ...] = ()) -> TrainingConfig:
    return TrainingConfig(
        name="test", data=DataConfig(drives=drives, validation=validation, store=str(store), workers=workers)
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A recorded nuScenes root with a cut-off image, a sweep of noise, and a box on the moon."""
    folder = tmp_path / "recorded"
    record(SyntheticSource(seed=2, duration_s=2.2, rig=small_rig()), folder)
    keyframes = [path for path in sensor_files(folder, "CAM_FRONT") if "samples" in path.parts]
    keyframes[1].write_bytes(keyframes[1].read_bytes()[:5000])
    sweep = next(path for path in sensor_files(folder, "LIDAR_TOP") if "samples" in path.parts)
    points = np.fromfile(sweep, dtype=np.float32)
    points[: len(points) // 20 * 5] = np.nan
    points.tofile(sweep)
    annotations = table(folder, "sample_annotation")
    annotations[0]["translation"] = [3.8e8, 0.0, 0.0]
    rewrite(folder, "sample_annotation", annotations)
    return folder


def test_drives_of_both_kinds_become_frames_once(root: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    settings = config(tmp_path / "store", str(root), workers=2, validation=(SIMULATED,))
    prepared = prepare(settings, TINY, progress=lines.append)

    recorded = list(prepared.train)
    assert [len(frame.cameras) for frame in recorded] == [1, 0, 1, 1, 1]
    assert prepared.counts[Rule.UNREADABLE_IMAGE.value] + prepared.counts[Rule.UNREADABLE.value] == 1
    assert prepared.counts[Rule.OUT_OF_RANGE.value] >= 1
    assert all(np.isfinite(frame.lidar_points).all() for frame in recorded)
    assert recorded[0].path_known.tolist() == [True] * 4 + [False] * 2

    simulated = list(prepared.validation)
    assert len(simulated) >= 12
    assert simulated[0].path_known.any()
    half = TINY.bev_cells // 2
    assert all(len(frame.cameras) == 6 for frame in simulated[2:-2])
    for frame in simulated:
        assert frame.images.shape[1:] == (3, 128, 352)
        assert frame.drivable is not None
        assert frame.drivable[half : half + 4, half].all(), "the ego drives on the road"
        assert 0.02 < frame.drivable.mean() < 0.9
        assert (np.abs(frame.boxes[:, CENTER][:, :2]) < TINY.range_m).all()
        assert len(frame.radar_points)
        assert len(frame.lidar_points) > 5000

    lines.clear()
    again = prepare(settings, TINY, progress=lines.append)
    assert lines[0].startswith("2 of 2 drives are in")
    assert again.counts == prepared.counts
    assert again.train.data_hash == prepared.train.data_hash
    assert [frame.reference_ns for frame in again.validation] == [frame.reference_ns for frame in simulated]


def test_a_process_that_dies_takes_its_own_drive_only(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def kill_the_first() -> None:
        while not list(store.glob("*.part")):
            time.sleep(0.02)
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    killer = threading.Thread(target=kill_the_first, daemon=True)
    killer.start()
    lines: list[str] = []
    long, short = "synthetic:seed=1,duration=20", "synthetic:seed=2,duration=0.3"
    prepared = prepare(config(store, long, short, workers=1), TINY, progress=lines.append)
    killer.join(10)
    assert len(prepared.train) == 1
    assert prepared.counts[Rule.DRIVE_FAILED.value] == 1
    assert lines[0].startswith(f"[1/2] {long}: left out, BrokenProcessPool")
