"""Writes a PandaSet sequence of a few frames, as pandas 0.25 would have pickled its tables."""

import gzip
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

START_S = 1_557_539_956.500022
PERIOD_S = 0.1
SPEED_MPS = 5.0
CAMERA_OFFSET_S = -0.05
ROAD_M = -0.4
SIZE_PX = (64, 48)
CAR_SPEED_MPS = 8.0


@dataclass(frozen=True)
class Global:
    """A name in a pickle, written as it is: it need not exist."""

    module: str
    name: str

    def __call__(self, *args: Any) -> None:
        raise AssertionError("only its name is pickled")


class Call:
    """What a pickle makes by calling a name."""

    def __init__(self, function: "Global | Call", args: tuple[Any, ...] = (), state: Any = None) -> None:
        self.parts = (function, args, state)

    def __call__(self, *args: Any) -> None:
        raise AssertionError("only what makes it is pickled")

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts if self.parts[2] is not None else self.parts[:2]


def _save_name(pickler: Any, name: Global) -> None:
    pickler.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())
    pickler.memoize(name)


class _Pickler(pickle._Pickler):
    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, Global: _save_name}


def dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=3).dump(value)
    return buffer.getvalue()


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(dump(frame(columns)), compresslevel=1))


def frame(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Call:
    arrays = [np.asarray(column) for column in columns.values()]
    arrays = [a.astype(object) if a.dtype.kind in "US" else a for a in arrays]
    blocks = [
        {"values": array(a.reshape(1, -1)), "mgr_locs": Call(Global("builtins", "slice"), (i, i + 1, 1))}
        for i, a in enumerate(arrays)
    ]
    index = Global("pandas.core.indexes.base", "_new_Index")
    names = {"data": array(np.array(list(columns), dtype=object)), "name": None}
    rows = {"name": None, "start": 0, "stop": len(arrays[0]), "step": 1}
    axes = [
        Call(index, (Global("pandas.core.indexes.base", "Index"), names)),
        Call(index, (Global("pandas.core.indexes.range", "RangeIndex"), rows)),
    ]
    state: tuple[Any, ...] = ([], [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Call(Global("pandas.core.internals.managers", "BlockManager"), (), state)
    return Call(Global("pandas.core.frame", "DataFrame"), (), {"_data": manager, "_typ": "dataframe", "attrs": {}})


def array(values: NDArray[Any]) -> Call:
    is_object = values.dtype == object
    code = "O8" if is_object else values.dtype.str[1:]
    dtype = Call(Global("numpy", "dtype"), (code, 0, 1), (3, "|" if is_object else "<", None, None, None, -1, -1, 0))
    data = values.ravel().tolist() if is_object else values.tobytes()
    make = Global("numpy.core.multiarray", "_reconstruct")
    return Call(make, (Global("numpy", "ndarray"), (0,), b"b"), (1, values.shape, dtype, False, data))


def write_sequence(folder: Path, frames: Sequence[int] = (1, 2), total: int = 5) -> Path:
    """A vehicle that drives north (y) at 5 m/s; poses for `total` frames, payloads for `frames`."""
    times = [START_S + k * PERIOD_S for k in range(total)]
    _write_track(folder / "lidar", times, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    for name, turn, y in (("front_camera", 0.0, 1.0), ("back_camera", np.pi, -1.0)):
        camera = folder / "camera" / name
        # Camera z ahead, y down: about x by -90 degrees, then about the vehicle's z.
        half = np.sqrt(0.5)
        quaternion = _product([np.cos(turn / 2), 0, 0, np.sin(turn / 2)], [half, -half, 0, 0])
        _write_track(camera, [time + CAMERA_OFFSET_S for time in times], [0.0, y, 1.5], quaternion)
        (camera / "intrinsics.json").write_text(json.dumps({"fx": 40.0, "fy": 40.0, "cx": 31.5, "cy": 23.5}))
        for k in frames:
            (camera / f"{k:02d}.jpg").write_bytes(jpeg(k))
    for k in frames:
        write_table(folder / "lidar" / f"{k:02d}.pkl.gz", points(k, times[k]))
        write_table(folder / "annotations" / "cuboids" / f"{k:02d}.pkl.gz", cuboids(k))
    return folder


def points(k: int, time_s: float) -> dict[str, Any]:
    """Road in the own lane for the 360-degree lidar; ten points of the forward one, 20 ms late."""
    road_x, road_y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-12, 12, 97))
    ahead = np.linspace(5, 15, 10)
    x = np.concatenate([road_x.ravel(), np.zeros(10)])
    y = np.concatenate([road_y.ravel(), ahead]) + k * PERIOD_S * SPEED_MPS
    n = road_x.size
    return {
        "x": x,
        "y": y,
        "z": np.full(n + 10, ROAD_M),
        "i": np.full(n + 10, 51.0),
        "t": np.concatenate([np.linspace(time_s - 0.1, time_s, n), np.full(10, time_s + 0.02)]),
        "d": np.concatenate([np.zeros(n, dtype=np.int64), np.ones(10, dtype=np.int64)]),
    }


def cuboids(k: int) -> dict[str, Any]:
    """A car that drives north at 8 m/s, seen by both lidars; a standing pedestrian; a bird."""
    car_y = 20.0 + k * PERIOD_S * CAR_SPEED_MPS
    return {
        "uuid": ["car-0", "car-1", "walker", "bird"],
        "label": ["Car", "Car", "Pedestrian", "Animals - Bird"],
        "yaw": [0.0, 0.0, 0.5, 0.0],
        "stationary": [False, False, True, False],
        "position.x": [2.0, 2.1, -3.0, 5.0],
        "position.y": [car_y, car_y + 0.3, 9.0, 5.0 + k],
        "position.z": [0.4, 0.4, 0.5, 3.0],
        "dimensions.x": [2.0, 2.0, 0.6, 0.2],
        "dimensions.y": [4.5, 4.5, 0.8, 0.3],
        "dimensions.z": [1.6, 1.6, 1.8, 0.2],
        "attributes.object_motion": ["Moving", "Moving", float("nan"), float("nan")],
        "attributes.pedestrian_behavior": [float("nan"), float("nan"), "Standing", float("nan")],
        "cuboids.sibling_id": ["car-1", "car-", "-", "-"],
        "cuboids.sensor_id": [0, 1, -1, -1],
    }


def jpeg(seed: int, size: tuple[int, int] = SIZE_PX) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def _write_track(folder: Path, times: list[float], at: list[float], quaternion: Sequence[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    heading = dict(zip("wxyz", map(float, quaternion), strict=True))
    poses = [
        {"position": {"x": at[0], "y": at[1] + (time - START_S) * SPEED_MPS, "z": at[2]}, "heading": heading}
        for time in times
    ]
    (folder / "timestamps.json").write_text(json.dumps(times))
    (folder / "poses.json").write_text(json.dumps(poses))


def _product(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Hamilton product of two quaternions (w, x, y, z)."""
    w, x, y, z = a
    return [
        w * b[0] - x * b[1] - y * b[2] - z * b[3],
        w * b[1] + x * b[0] + y * b[3] - z * b[2],
        w * b[2] - x * b[3] + y * b[0] + z * b[1],
        w * b[3] + x * b[2] - y * b[1] + z * b[0],
    ]
