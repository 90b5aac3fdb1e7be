"""Checks that readers of several formats share: typed JSON, finite points, the size of an image."""

import re
import struct
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError, PayloadError, PerceptionError
from perception.core.messages import CameraFrame, Unreadable
from perception.core.rig import Sensor
from perception.sources.image_files import read_image

T = TypeVar("T")

MAX_POINT_OFFSET_NS = 500_000_000
"""Points further than this from the stamp of their sweep are broken; a sweep lasts 100 ms."""

MAX_DISTANCE_M = 100_000.0
"""No sensor sees so far, and no sequence leads so far from its start."""

_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def read_json(path: Path, kind: type[T], error: type[PerceptionError] = DriveError) -> T:
    """Decode a JSON file as `kind`, anything that msgspec takes. Raises `error`, naming the file and the field."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}); restore it from the original archive") from cause
    except msgspec.ValidationError as cause:
        reason, _, where = str(cause).partition(" - at ")
        raise error(f"{path}: {reason} at {where or 'the top'}") from cause
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise error(f"{path}: not valid JSON ({cause})") from cause


def finite_rows(path: Path | str, columns: NDArray[Any]) -> NDArray[Any]:
    """The rows (M, C) of `columns` (N, C), a position first, that are finite and within `MAX_DISTANCE_M`.

    Raises PayloadError where none is left.
    """
    is_finite = np.all(np.isfinite(columns), axis=1) & np.all(np.abs(columns[:, :3]) < MAX_DISTANCE_M, axis=1)
    if not np.any(is_finite):
        raise PayloadError(f"{path}: none of its {len(columns)} points is finite and near")
    return columns if np.all(is_finite) else columns[is_finite]


def point_offsets(path: Path | str, offsets_ns: NDArray[np.float64]) -> NDArray[np.int32]:
    """Point times relative to their stamp, (N,) float64, as int32. Raises PayloadError where one is seconds away."""
    worst = float(np.max(np.abs(offsets_ns), initial=0.0))
    if not worst <= MAX_POINT_OFFSET_NS:
        raise PayloadError(f"{path}: a point lies {worst / 1e9:.3g} s from the time of its frame")
    return np.rint(offsets_ns).astype(np.int32)


def image_size(path: Path | str, data: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the header of a JPEG or PNG. Raises PayloadError where it has none.

    JPEG: ITU-T T.81, B.2.2 (frame header); PNG: the IHDR chunk.
    """
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    position = 2
    while data.startswith(b"\xff\xd8") and position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return int(width), int(height)
        position += 1 if marker == 0xFF else 2 + length
    raise PayloadError(f"{path}: the image header names no size")


def load_camera_frame(
    sensor: Sensor, path: Path, capture_ns: int, arrival_ns: int, calibration: CameraModel | None = None
) -> CameraFrame | Unreadable:
    """Read one image; `Unreadable` where it is broken or of another size than its calibration is for."""
    camera = calibration if calibration is not None else sensor.camera
    try:
        data = read_image(path)
        if camera is not None:
            check_size(path, image_size(path, data), (camera.width_px, camera.height_px))
    except PayloadError as error:
        return Unreadable(sensor=sensor.name, capture_ns=capture_ns, arrival_ns=arrival_ns, error=str(error))
    return CameraFrame(
        sensor=sensor.name, capture_ns=capture_ns, arrival_ns=arrival_ns, data=data, calibration=calibration
    )


def check_size(path: Path | str, size: tuple[int, int], calibrated: tuple[int, int]) -> None:
    """Raise PayloadError unless an image of `size` (width, height) fits its calibration."""
    if size != calibrated:
        raise PayloadError(
            f"{path}: the image is {size[0]}x{size[1]}, its calibration for {calibrated[0]}x{calibrated[1]}"
        )


def numbered_files(folder: Path, pattern: str) -> dict[int, Path]:
    """Files of `folder` by the number that group 1 of the regular expression `pattern` finds in their names, rising."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name))}
    return dict(sorted(found.items()))


def choose_scene(root: Path, scenes: dict[str, Path], scene: str | None, what: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of `scene`, by default the first, and a note where there are others.

    Raises DriveError where there is none at all, or none of that name.
    """
    names = sorted(scenes)
    if not names:
        raise DriveError(f"{root}: no {what} here")
    chosen = scene if scene is not None else names[0]
    if chosen not in scenes:
        raise DriveError(f"{root}: no scene {chosen!r}; it has {', '.join(names)}")
    is_guess = scene is None and len(names) > 1
    notes = (f"the first of {len(names)} drives in {root}; choose another with a scene: {', '.join(names)}",)
    return scenes[chosen], notes if is_guess else ()
