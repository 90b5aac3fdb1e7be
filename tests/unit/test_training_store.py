"""The frame store: what goes in comes out, frame by frame, and neither a kill nor a full disk leaves half a drive."""

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError
from perception.models.tensors import EGO_FIELDS
from perception.training.cleaning import Findings, Rule
from perception.training.frames import TrainingFrame
from perception.training.store import SHARD_FRAMES, FrameStore, stored_drive
from tests.conftest import PROJECT_ROOT

LENSES = {
    Projection.PINHOLE: ([], 0.0),
    Projection.BROWN: ([-0.2, 0.05, 0.001, -0.001, 0.0, 0.1, 0.02, 0.0], 0.0),
    Projection.MEI: ([-0.1, 0.02, 0.0, 0.0], 1.1),
    Projection.KANNALA_BRANDT: ([0.02, -0.01, 0.001, 0.0], 0.0),
}
"""Coefficients and xi of a camera of each kind."""


def small_frame(
    seed: int, *, cameras: int = 2, lidars: int = 1, radar: bool = True, road: bool = True
) -> TrainingFrame:
    """A frame with every kind of lens in turn, small images and random numbers."""
    rng = np.random.default_rng(seed)
    kinds = [list(LENSES)[(seed + i) % len(LENSES)] for i in range(cameras)]
    points, returns, boxes = rng.integers(0, 200), rng.integers(0, 20), rng.integers(0, 5)
    return TrainingFrame(
        drive_id="drive",
        reference_ns=1_700_000_000_000_000_000 + seed,
        images=rng.integers(0, 256, (cameras, 3, 16, 32), dtype=np.uint8),
        cameras=tuple(
            CameraModel(
                width_px=32,
                height_px=16,
                intrinsic=np.array([[30.0 + seed, 0.1, 15.5], [0, 31.0, 7.5], [0, 0, 1]]),
                projection=kind,
                distortion=np.array(LENSES[kind][0]),
                xi=LENSES[kind][1],
            )
            for kind in kinds
        ),
        top_px=rng.random(cameras).astype(np.float32),
        reference_SE3_camera=rng.normal(size=(cameras, 4, 4)).astype(np.float32),
        camera_age_s=rng.normal(size=cameras).astype(np.float32),
        lidar_points=rng.uniform(-51.19, 51.19, (points * lidars, 5)).astype(np.float32),
        lidar_count=np.full(lidars, points, dtype=np.int64),
        lidar_age_s=rng.normal(size=lidars).astype(np.float32),
        radar_points=rng.uniform(-80, 80, (returns if radar else 0, 7)).astype(np.float32),
        radar_age_s=0.0123 if radar else None,
        ego=rng.normal(size=len(EGO_FIELDS)).astype(np.float32),
        class_index=rng.integers(0, 10, boxes),
        boxes=np.where(rng.random((boxes, 10)) < 0.1, np.nan, rng.normal(size=(boxes, 10))).astype(np.float32),
        attribute_index=rng.integers(-1, 8, boxes),
        visible_share=np.where(rng.random(boxes) < 0.3, np.nan, rng.random(boxes)).astype(np.float32),
        path_m=rng.normal(size=(6, 2)).astype(np.float32),
        path_known=rng.random(6) < 0.5,
        target_speed_mps=float(rng.normal()) if seed % 2 else float("nan"),
        drivable=rng.random((8, 8)) < 0.5 if road else None,
    )


def assert_same(found: TrainingFrame, expected: TrainingFrame) -> None:
    for field in fields(TrainingFrame):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "cameras":
            for a, b in zip(one, other, strict=True):
                assert (a.width_px, a.height_px, a.projection, a.xi) == (b.width_px, b.height_px, b.projection, b.xi)
                assert np.array_equal(a.intrinsic, b.intrinsic)
                assert np.array_equal(a.distortion, b.distortion)
        elif field.name in ("lidar_points", "radar_points"):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=0.8e-3 if field.name == "lidar_points" else 1.3e-3)
        elif isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other or (one != one and other != other), field.name


def many(count: int) -> list[TrainingFrame]:
    """Frames of all makes, those without any sensor or road among them, mixed."""
    return [
        small_frame(i, cameras=i % 4, lidars=(i // 2) % 3, radar=i % 3 > 0, road=(i // 3) % 2 > 0) for i in range(count)
    ]


def test_frames_come_back_in_any_order_from_several_shards_and_drives(tmp_path: Path) -> None:
    frames = many(SHARD_FRAMES + 10)
    store = FrameStore(tmp_path)
    store.add("a", frames[:70], drive_id="drive")
    store.add("b", frames[70:], drive_id="drive")
    assert [len(drive.shards) for drive in store.drives] == [2, 1]
    opened = FrameStore(tmp_path, ["a", "b"])
    assert len(opened) == len(frames)
    for index in np.random.default_rng(0).permutation(len(frames)).tolist():
        assert_same(opened[index], frames[index])
    assert_same(opened[-1], frames[-1])
    assert [one.reference_ns for one in opened[68:72]] == [one.reference_ns for one in frames[68:72]]
    with pytest.raises(IndexError):
        opened[len(frames)]


@pytest.mark.parametrize("frame", [small_frame(3, cameras=0, lidars=0, radar=False, road=False), small_frame(2)])
def test_a_drive_of_one_frame_comes_back(tmp_path: Path, frame: TrainingFrame) -> None:
    FrameStore(tmp_path).add("a", [frame], drive_id="drive")
    assert_same(FrameStore(tmp_path)[0], frame)


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    store.add("a", many(4), drive_id="drive")
    store[1].images[:] = 0
    assert store[1].images.any()


def test_points_stay_within_a_millimetre_at_the_far_corner(tmp_path: Path) -> None:
    points = np.array([[51.199, -51.199, 6.999, 1.0, -1.0], [0.001, 0.002, -4.999, 0.5, 0.05]], dtype=np.float32)
    frame = replace(small_frame(1), lidar_points=points, lidar_count=np.array([2]))
    store = FrameStore(tmp_path)
    store.add("a", [frame], drive_id="drive")
    np.testing.assert_allclose(store[0].lidar_points, points, atol=0.8e-3)
    assert np.abs(store[0].lidar_points).max() <= 51.199


def test_an_empty_drive_keeps_its_findings(tmp_path: Path) -> None:
    findings = Findings()
    findings.add(Rule.DRIVE_WITHOUT_LABELS, "bare")
    store = FrameStore(tmp_path)
    store.add("a", [], path="folder#bare", notes=("not annotated",), findings=findings)
    drive = stored_drive(tmp_path, "a")
    assert drive is not None
    assert (drive.frames, drive.path, drive.notes) == (0, "folder#bare", ("not annotated",))
    assert drive.findings.counts == findings.counts
    assert len(FrameStore(tmp_path)) == 0


def test_the_hash_tells_which_drives_in_which_order(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    for key in ("a", "b"):
        store.add(key, [small_frame(0)])
    assert store.keys == ("a", "b")
    hashes = {FrameStore(tmp_path, keys).data_hash for keys in (["a"], ["b"], ["a", "b"], ["b", "a"])}
    assert len(hashes) == 4
    assert store.data_hash == FrameStore(tmp_path, ["a", "b"]).data_hash


def test_a_drive_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    def never() -> Iterator[TrainingFrame]:
        yield from many(1)
        raise AssertionError("nobody should read this drive")

    FrameStore(tmp_path).add("a", many(3))
    assert FrameStore(tmp_path, []).add("a", never()).frames == 3
    with pytest.raises(ValueError, match="part of this sequence already"):
        FrameStore(tmp_path).add("a", never())


def test_a_store_goes_to_another_process(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    store.add("a", many(3), drive_id="drive")
    store[0]
    copy = pickle.loads(pickle.dumps(store))
    assert_same(copy[2], many(3)[2])


def test_an_error_in_the_middle_of_a_drive_leaves_nothing_of_it(tmp_path: Path) -> None:
    def breaking() -> Iterator[TrainingFrame]:
        yield from many(SHARD_FRAMES + 1)
        raise DriveError("the disk of the drive went")

    store = FrameStore(tmp_path)
    with pytest.raises(DriveError, match="of the drive went"):
        store.add("a", breaking())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(store) == 0


def run(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    header = "from tests.unit.test_training_store import *\nimport os, resource, signal\n"
    command = [sys.executable, "-c", header + program, str(folder)]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_kill_while_writing_costs_that_drive_only(tmp_path: Path) -> None:
    FrameStore(tmp_path).add("a", many(3), drive_id="drive")
    program = """
def dying():
    yield from many(SHARD_FRAMES + 3)
    os.kill(os.getpid(), signal.SIGKILL)

FrameStore(sys.argv[1], []).add("b", dying())
"""
    assert run(program, tmp_path).returncode == -9
    assert (tmp_path / "b.part" / "00000.safetensors").is_file()
    assert FrameStore(tmp_path).keys == ("a",)
    store = FrameStore(tmp_path)
    store.add("b", many(5), drive_id="drive")
    assert len(store) == 8
    assert not (tmp_path / "b.part").exists()
    assert_same(FrameStore(tmp_path, ["b"])[4], many(5)[4])


def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    program = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    FrameStore(sys.argv[1]).add("a", many(40))
except DriveError as error:
    print(error)
"""
    done = run(program, tmp_path)
    assert "frames cannot be written" in done.stdout, done.stderr
    assert "free some space" in done.stdout
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("damage", ["cut", "remove", "index", "format"])
def test_a_damaged_drive_is_an_error_and_is_made_again(tmp_path: Path, damage: str) -> None:
    FrameStore(tmp_path).add("a", many(5), drive_id="drive")
    shard, index = tmp_path / "a" / "00000.safetensors", tmp_path / "a" / "index.json"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "remove":
        shard.unlink()
    elif damage == "index":
        index.write_text(index.read_text()[:-20])
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"format": "perception-frames-0"}))
    assert stored_drive(tmp_path, "a") is None
    with pytest.raises(DriveError, match="missing or damaged"):
        FrameStore(tmp_path, ["a"])
    store = FrameStore(tmp_path, [])
    store.add("a", many(5), drive_id="drive")
    assert_same(store[4], many(5)[4])


def test_two_runs_that_want_the_same_drive_make_it_once(tmp_path: Path) -> None:
    begun: list[str] = []
    first_is_in, second_may_go = threading.Event(), threading.Event()

    def slow(name: str) -> Iterator[TrainingFrame]:
        begun.append(name)
        first_is_in.set()
        second_may_go.wait(10)
        yield from many(2)

    threads = [
        threading.Thread(target=lambda name=name: FrameStore(tmp_path, []).add("a", slow(name))) for name in ("x", "y")
    ]
    threads[0].start()
    first_is_in.wait(10)
    threads[1].start()
    second_may_go.set()
    for thread in threads:
        thread.join(10)
    assert begun == ["x"]
    assert len(FrameStore(tmp_path)) == 2
