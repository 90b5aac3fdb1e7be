"""Writes an Argoverse 2 sensor log of a few sweeps and images: the ego goes 10 m/s along the city's x axis."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import feather

LOG = "01bb304d-7bd8-35f8-bbef-7086b688e35e"
START_NS = 315_966_253_660_357_000
PERIOD_NS = 100_000_000
SWEEPS = 3
SPEED_MPS = 10.0
CAMERA = "ring_front_center"
WIDTH_PX, HEIGHT_PX = 64, 48
CAR_TRACK, RIDER_TRACK = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"
CAR_SPEED_MPS = 4.0
POINTS = np.array([[10.0, 1.0, -0.25], [5.0, -1.0, 0.5], [20.0, 2.0, 1.5]], dtype=np.float16)


def write_table(path: Path, columns: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(columns), path)


def write_log(root: Path, *, compression: str = "lz4") -> Path:
    log = root / LOG
    times = np.arange(START_NS - 100_000_000, START_NS + 400_000_000, 10_000_000)
    count = len(times)
    poses = {"timestamp_ns": times, "qw": np.ones(count), **{f"q{axis}": np.zeros(count) for axis in "xyz"}}
    poses |= {"tx_m": (times - START_NS) / 1e9 * SPEED_MPS, "ty_m": np.full(count, 5.0), "tz_m": np.zeros(count)}
    write_table(log / "city_SE3_egovehicle.feather", poses)
    write_calibration(log)
    for k in range(SWEEPS):
        write_sweep(log, k, compression=compression)
        image = np.random.default_rng(k).integers(0, 255, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
        path = log / "sensors" / "cameras" / CAMERA / f"{START_NS + k * PERIOD_NS + 20_000_000}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    write_boxes(log)
    return log


def write_calibration(log: Path) -> None:
    names = [CAMERA, "up_lidar"]
    # The camera looks ahead: its z axis is the vehicle's x axis.
    mounts = {"qw": [0.5, 1.0], "qx": [-0.5, 0.0], "qy": [0.5, 0.0], "qz": [-0.5, 0.0]}
    mounts |= {"tx_m": [1.6, 1.3], "ty_m": [0.0, 0.0], "tz_m": [1.4, 1.6]}
    write_table(log / "calibration" / "egovehicle_SE3_sensor.feather", {"sensor_name": names, **mounts})
    values = {"fx_px": 50.0, "fy_px": 50.0, "cx_px": 31.5, "cy_px": 23.5, "k1": -0.3, "k2": 0.1, "k3": 0.0}
    columns: dict[str, object] = {"sensor_name": [CAMERA], **{name: [value] for name, value in values.items()}}
    columns |= {"height_px": np.array([HEIGHT_PX], np.uint16), "width_px": np.array([WIDTH_PX], np.uint16)}
    write_table(log / "calibration" / "intrinsics.feather", columns)


def write_sweep(
    log: Path,
    k: int,
    *,
    points: np.ndarray[tuple[int, ...], np.dtype[np.float16]] = POINTS,
    compression: str = "lz4",
    leave_out: str = "",
    late_ns: int = 0,
) -> Path:
    path = log / "sensors" / "lidar" / f"{START_NS + k * PERIOD_NS}.feather"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        **{axis: points[:, number] for number, axis in enumerate("xyz")},
        "intensity": np.array([0, 51, 255], dtype=np.uint8),
        "laser_number": np.array([0, 31, 63], dtype=np.uint8),
        "offset_ns": np.array([2_654_000, 50_000_000, 100_000_000 + late_ns], dtype=np.int32),
    }
    columns.pop(leave_out, None)
    feather.write_feather(pa.table(columns), path, compression=compression)
    return path


def write_boxes(log: Path, *, length_m: float = 4.0) -> None:
    """A car 20 m ahead, turned by 30 degrees, that goes 4 m/s along the city's x axis, and a rider in two sweeps."""
    rows: dict[str, list[object]] = {}
    for k in range(SWEEPS):
        time_s = k * PERIOD_NS / 1e9
        ahead = 20.0 + (CAR_SPEED_MPS - SPEED_MPS) * time_s
        car = {"track_uuid": CAR_TRACK, "category": "REGULAR_VEHICLE", "length_m": length_m, "tx_m": ahead}
        rider = {"track_uuid": RIDER_TRACK, "category": "BICYCLIST", "length_m": 0.8, "tx_m": 5.0}
        for box in (car, rider) if k == 0 else (car,):
            shared = {"timestamp_ns": START_NS + k * PERIOD_NS, "width_m": 2.0, "height_m": 1.5, "num_interior_pts": 7}
            turn = {"qw": np.cos(np.pi / 12), "qx": 0.0, "qy": 0.0, "qz": np.sin(np.pi / 12)}
            for name, value in {**shared, **turn, **box, "ty_m": 1.0, "tz_m": 0.5}.items():
                rows.setdefault(name, []).append(value)
    write_table(log / "annotations.feather", dict(rows))


WIDTH_M = 3.5
APPROACH, BESIDE, EXIT_AHEAD, EXIT_LEFT, ONCOMING = 1, 2, 3, 4, 5
AHEAD, LEFT, RIGHT, CYCLES = 10, 11, 12, 20


def write_map(log: Path) -> Path:
    """A road of two lanes along the city's x axis, y = 5 and (from x = 0, to its left) 8.5, into a crossing at x = 60.

    The right lane goes on ahead, to the left and to the right; a lane of oncoming traffic lies left of both.
    """
    road, corner = np.array([[-50.0, 5.0], [60.0, 5.0]]), np.array([60.0, 5.0])
    to_left = np.array([0.0, WIDTH_M])
    angle = np.linspace(0.0, np.pi / 2, 8)
    left = corner + 12.0 * np.stack([np.sin(angle), 1.0 - np.cos(angle)], axis=1)
    right = corner + 6.0 * np.stack([np.sin(angle), np.cos(angle) - 1.0], axis=1)
    lanes = [
        _lane(APPROACH, road, successors=[AHEAD, LEFT, RIGHT], left=BESIDE),
        _lane(BESIDE, road + to_left, right=APPROACH, left=ONCOMING),
        _lane(ONCOMING, (road + 2 * to_left)[::-1], left=BESIDE),
        _lane(AHEAD, corner + np.array([[0.0, 0.0], [15.0, 0.0]]), successors=[EXIT_AHEAD], crossing=True),
        _lane(LEFT, left, successors=[EXIT_LEFT], crossing=True),
        _lane(RIGHT, right, crossing=True),
        _lane(EXIT_AHEAD, corner + np.array([[15.0, 0.0], [60.0, 0.0]])),
        _lane(EXIT_LEFT, corner + np.array([[12.0, 12.0], [12.0, 60.0]])),
        _lane(CYCLES, road - to_left, kind="BIKE"),
    ]
    outline = np.array([[-50.0, 0.0], [200.0, 0.0], [200.0, 14.0], [-50.0, 14.0]])
    content = {
        "pedestrian_crossings": {},
        "lane_segments": {str(lane["id"]): lane for lane in lanes},
        "drivable_areas": {"9": {"id": 9, "area_boundary": _points(outline)}},
    }
    path = log / "map" / f"log_map_archive_{LOG}____PIT_city_1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _lane(
    number: int,
    centre: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    *,
    successors: Sequence[int] = (),
    left: int | None = None,
    right: int | None = None,
    crossing: bool = False,
    kind: str = "VEHICLE",
) -> dict[str, object]:
    ahead = np.gradient(centre, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    to_left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) * WIDTH_M / 2
    return {
        "id": number,
        "is_intersection": crossing,
        "lane_type": kind,
        "left_lane_boundary": _points(centre + to_left),
        "right_lane_boundary": _points(centre - to_left),
        "left_lane_mark_type": "NONE",
        "right_lane_mark_type": "NONE",
        "successors": list(successors),
        "predecessors": [],
        "left_neighbor_id": left,
        "right_neighbor_id": right,
    }


def _points(line: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[dict[str, float]]:
    return [{"x": x, "y": y, "z": 0.0} for x, y in line.tolist()]
