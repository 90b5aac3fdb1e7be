"""The parser of nuScenes radar files, on files made byte by byte."""

import struct

import numpy as np
import pytest

from perception.core.errors import PayloadError
from perception.sources.radar_pcd import parse_radar_pcd

FIELDS = (
    "x y z dyn_prop id rcs vx vy vx_comp vy_comp is_quality_valid ambig_state x_rms y_rms invalid_state pdh0 "
    "vx_rms vy_rms"
)
RECORD = struct.Struct("<fffbhfffff8b")


def record(x: float, y: float, vx: float, vy: float, *, dyn_prop: int = 0, ambig: int = 3, invalid: int = 0) -> bytes:
    return RECORD.pack(x, y, 0.5, dyn_prop, 7, 4.5, vx, vy, vx / 2, vy / 2, 1, ambig, 0, 0, invalid, 0, 0, 0)


def pcd(*records: bytes, points: int | None = None, trailing: bytes = b"", **changes: str) -> bytes:
    count = len(records) if points is None else points
    lines = {
        "VERSION": "0.7",
        "FIELDS": FIELDS,
        "SIZE": "4 4 4 1 2 4 4 4 4 4 1 1 1 1 1 1 1 1",
        "TYPE": "F F F I I F F F F F I I I I I I I I",
        "COUNT": " ".join("1" * 18),
        "WIDTH": str(count),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(count),
        "DATA": "binary",
    } | changes
    header = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{k} {v}\n" for k, v in lines.items())
    return header.encode() + b"".join(records) + trailing


def test_range_rates_are_projections_on_the_ray_with_their_sign() -> None:
    scan = parse_radar_pcd(pcd(record(3.0, 4.0, -3.0, -4.0), record(-10.0, 0.0, -2.0, 0.0)))
    assert np.allclose(scan.points_m, [[3, 4, 0.5], [-10, 0, 0.5]])
    assert np.allclose(scan.radial_mps, [-5.0, 2.0])
    assert np.allclose(scan.compensated_mps, [-2.5, 1.0])
    assert np.allclose(scan.rcs_dbsm, 4.5)


def test_the_filters_of_the_devkit_mark_rows_and_remove_none() -> None:
    good = {"dyn_prop": 6, "ambig": 3, "invalid": 0}
    scan = parse_radar_pcd(
        pcd(
            record(1, 0, 0, 0, **good),
            record(1, 0, 0, 0, **good | {"dyn_prop": 7}),
            record(1, 0, 0, 0, **good | {"ambig": 4}),
            record(1, 0, 0, 0, **good | {"invalid": 4}),
        )
    )
    assert scan.is_valid.tolist() == [True, False, False, False]


def test_points_decides_and_trailing_bytes_are_ignored() -> None:
    padded = pcd(record(1, 2, 0, 0), record(9, 9, 9, 9), points=1, trailing=b"\xff" * 4096)
    assert np.allclose(parse_radar_pcd(padded).points_m, [[1, 2, 0.5]])


def test_rows_that_are_not_finite_are_left_out() -> None:
    scan = parse_radar_pcd(pcd(record(1, 2, 0, 0), record(np.nan, 2, 0, 0), record(3, 2, np.inf, 0)))
    assert len(scan.points_m) == len(scan.is_valid) == 1


def test_a_return_at_the_radar_itself_has_no_direction() -> None:
    assert parse_radar_pcd(pcd(record(0, 0, 5, 5))).radial_mps.tolist() == [0.0]


def test_other_widths_and_orders_of_fields_are_read_as_the_header_says() -> None:
    names = "rcs vy vx y x z vx_comp vy_comp dyn_prop ambig_state invalid_state"
    row = struct.pack("<dddddddd3h", 1.5, 4.0, 3.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0, 3, 0)
    data = pcd(row, FIELDS=names, SIZE="8 " * 8 + "2 2 2", TYPE="F " * 8 + "I I I", COUNT=" ".join("1" * 11))
    scan = parse_radar_pcd(data)
    assert scan.radial_mps.tolist() == [5.0]
    assert scan.rcs_dbsm.tolist() == [1.5]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (pcd(record(1, 2, 0, 0), points=2), "POINTS 2 needs 86 bytes, the file has 43"),
        (pcd(points=-1), "POINTS -1"),
        (pcd(POINTS="many"), "POINTS is missing or no number"),
        (pcd(DATA="ascii"), "DATA must be binary, got ascii"),
        (pcd(FIELDS=FIELDS.replace("vx_comp", "other")), "FIELDS lacks vx_comp"),
        (pcd(FIELDS=FIELDS.replace("vy_rms", "x")), "names a field twice"),
        (pcd(FIELDS="x y"), "equally many"),
        (pcd(SIZE="3" + " 4" * 17), "field x has TYPE F, SIZE 3"),
        (pcd(COUNT="2" + " 1" * 17), "COUNT 2"),
        (b"", "no DATA line"),
        (b"\xff" * 100_000, "no DATA line"),
        (b"# .PCD v0.7\nDATA binary\n", "SIZE is missing"),
    ],
)
def test_broken_files_say_what_is_wrong(data: bytes, text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        parse_radar_pcd(data)
