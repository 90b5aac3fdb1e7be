"""Whatever happens to the bytes of a sensor file, a reader gives a message or says PayloadError, and nothing else."""

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.errors import PayloadError
from perception.core.rig import Modality, Sensor
from perception.sources.aimotive_files import read_scan, read_sweep
from perception.sources.allowlist_pickle import load_table
from perception.sources.kitti_files import read_calibration, read_label_rows, read_velodyne
from perception.sources.pandaset_files import read_points
from perception.sources.payloads import image_size
from tests.unit.small_aimotive import TARGET, stamp, write_laz
from tests.unit.small_kitti import LABELS, POINTS, write_calibration
from tests.unit.small_pandaset import START_S, jpeg, points, write_table

EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)
CUT = st.one_of(st.just(1.0), st.floats(0, 1))


def _damage(data: bytes, edits: list[tuple[float, int]], keep: float) -> bytes:
    """Overwrite bytes at fractions of the length, then keep the first part."""
    damaged = bytearray(data)
    for place, value in edits:
        damaged[int(place * len(data))] = value
    return bytes(damaged[: round(keep * len(data))])


def _complaint(reader: Callable[[Path], object], whole: bytes, damaged: bytes) -> str | None:
    """What is wrong with how `damaged` is read, None where it is as promised: read, or refused with the file's name."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(damaged)
        try:
            reader(path)
        except PayloadError as error:
            if damaged == whole:
                return f"undamaged, yet refused: {error}"
            return None if str(path) in str(error) else f"refused without the file's name: {error}"
        except Exception as error:  # any other kind is what is looked for
            return f"{type(error).__name__} escaped: {error}"
    return None


@cache
def _sample(kind: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.laz"
        if kind == "laz":
            write_laz(path, np.random.default_rng(0).normal(0, 20, (500, 3)), stamp(0))
        elif kind == "calibration":
            (path.parent / "calib").mkdir()
            write_calibration(path.parent, 0)
            path = path.parent / "calib" / "000000.txt"
        else:
            write_table(path, points(0, START_S))
        return path.read_bytes()


def _sensor(modality: Modality) -> Sensor:
    return Sensor(name="s", modality=modality, ego_SE3_sensor=np.eye(4), frequency_hz=10.0)


def _read_laz(path: Path) -> object:
    return read_sweep(path, _sensor(Modality.LIDAR), stamp(0), 0)


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, keep=CUT)
def test_laz(edits: list[tuple[float, int]], keep: float) -> None:
    whole = _sample("laz")
    assert _complaint(_read_laz, whole, _damage(whole, edits, keep)) is None


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, at_start=st.booleans())
def test_laz_header(edits: list[tuple[float, int]], at_start: bool) -> None:
    whole = _sample("laz")
    head = 400 if at_start else 250
    assert _complaint(_read_laz, whole, _damage(whole[:head], edits, 1.0) + whole[head:]) is None


@settings(max_examples=150, deadline=None)
@given(edits=EDITS, keep=CUT, is_packed=st.booleans())
def test_pickled_tables(edits: list[tuple[float, int]], keep: float, is_packed: bool) -> None:
    whole = _sample("table")
    damaged = _damage(whole, edits, keep) if is_packed else gzip.compress(_damage(gzip.decompress(whole), edits, keep))
    assert _complaint(load_table, whole, damaged) is None
    assert _complaint(read_points, whole, damaged) is None


@settings(max_examples=100, deadline=None)
@given(edits=EDITS, keep=CUT)
def test_small_texts(edits: list[tuple[float, int]], keep: float) -> None:
    radar = json.dumps({"targets": [TARGET, TARGET]}).encode()
    for reader, whole in (
        (lambda path: read_scan(path, _sensor(Modality.RADAR), 0, 0), radar),
        (read_calibration, _sample("calibration")),
        (read_label_rows, LABELS.encode()),
    ):
        assert _complaint(reader, whole, _damage(whole, edits, keep)) is None


@settings(max_examples=100, deadline=None)
@given(edits=EDITS, keep=CUT)
def test_plain_points_and_image_headers(edits: list[tuple[float, int]], keep: float) -> None:
    sweep, picture = POINTS.tobytes(), jpeg(0)[:700]
    assert _complaint(read_velodyne, sweep, _damage(sweep, edits, keep)) is None
    assert _complaint(lambda path: image_size(path, path.read_bytes()), picture, _damage(picture, edits, keep)) is None
