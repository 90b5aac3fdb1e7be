"""The vector map of an Argoverse 2 log: lanes and drivable areas, in the plane of the city frame.

Layout: github.com/argoverse/av2-api, `map/map_api.py`: `log_map_archive_*.json` with `lane_segments` (two boundaries
in the direction of travel, successors, neighbours) and `drivable_areas` (outlines). It has no speed limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import invert, transform_points

F64 = NDArray[np.float64]

MAP_FILES = "map/log_map_archive_*.json"
MAX_MAP_BYTES = 64 * 2**20
"""The map of a log has 0.1 to 2 MB."""

_CENTRE_POINTS = 20
_SHIFT = 4


class _Point(msgspec.Struct):
    x: float
    y: float
    z: float


class _LaneRecord(msgspec.Struct):
    id: int
    is_intersection: bool
    lane_type: str
    left_lane_boundary: list[_Point]
    right_lane_boundary: list[_Point]
    successors: list[int]
    left_neighbor_id: int | None
    right_neighbor_id: int | None


class _AreaRecord(msgspec.Struct):
    area_boundary: list[_Point]


class _MapRecord(msgspec.Struct):
    lane_segments: dict[str, _LaneRecord]
    drivable_areas: dict[str, _AreaRecord]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """One segment. left_m, right_m: its boundaries (N, 2), (M, 2). Neighbours may be lanes of oncoming traffic."""

    lane_id: int
    is_intersection: bool
    left_m: F64
    right_m: F64
    successors: tuple[int, ...]
    left_neighbour: int | None
    right_neighbour: int | None

    @cached_property
    def centre_m(self) -> F64:
        """(20, 2) in the direction of travel, halfway between the boundaries."""
        centre: F64 = (_evenly(self.left_m) + _evenly(self.right_m)) / 2
        return centre

    @cached_property
    def heading_rad(self) -> F64:
        """(19,) of the pieces of `centre_m`, without jumps by a whole turn."""
        steps = np.diff(self.centre_m, axis=0)
        heading: F64 = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        return heading

    @property
    def turn_rad(self) -> float:
        """From begin to end, positive to the left."""
        return float(self.heading_rad[-1] - self.heading_rad[0])

    def contains(self, points_m: F64) -> NDArray[np.bool_]:
        """(N,) True for points (N, 2) between the boundaries."""
        outline = np.concatenate([self.left_m, self.right_m[::-1]])
        a, b = outline, np.roll(outline, -1, axis=0)
        x, y = points_m[:, :1], points_m[:, 1:2]
        is_across = (a[:, 1] > y) != (b[:, 1] > y)  # (N, edges)
        rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
        crossings: NDArray[np.int64] = (is_across & (x < a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise)).sum(1)
        is_inside: NDArray[np.bool_] = crossings % 2 == 1
        return is_inside

    def offsets(self, points_m: F64) -> tuple[F64, F64]:
        """Of points (N, 2): the distance (N,) from the centre line and its heading (N,) at the nearest piece."""
        middle = (self.centre_m[:-1] + self.centre_m[1:]) / 2
        nearest = np.argmin(np.linalg.norm(points_m[:, None] - middle, axis=2), axis=1)
        heading = self.heading_rad[nearest]
        gap = points_m - middle[nearest]
        return np.abs(gap[:, 1] * np.cos(heading) - gap[:, 0] * np.sin(heading)), heading


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneMap:
    """lanes: those of cars, by id. areas_m: outlines (N, 3) of where one may drive."""

    lanes: Mapping[int, Lane]
    areas_m: tuple[F64, ...]

    def drivable(self, city_SE3_ego: F64, half_m: float, cell_m: float) -> NDArray[np.bool_]:
        """(H, W) as `TruthSource.drivable` has it."""
        cells = round(2 * half_m / cell_m)
        image = np.zeros((cells, cells), dtype=np.uint8)
        ego_SE3_city = invert(city_SE3_ego)
        for area in self.areas_m:
            outline = transform_points(ego_SE3_city, area)[:, 1::-1]  # columns along y, rows along x
            pixels = np.round(((outline + half_m) / cell_m - 0.5) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(image, [pixels], 1, shift=_SHIFT)
        return image.astype(np.bool_)


def map_file(log: Path) -> Path | None:
    """The map of a log, None where it has none."""
    return next(iter(sorted(log.glob(MAP_FILES))), None)


def read_map(path: Path) -> LaneMap:
    """Raises DriveError where the file is no map, or a lane or an area has no extent."""
    remedy = "restore it from the log, or move the folder `map` away to do without route commands"
    try:
        if path.stat().st_size > MAX_MAP_BYTES:
            raise DriveError(f"{path}: {path.stat().st_size} bytes are more than a map may have; {remedy}")
        record = msgspec.json.decode(path.read_bytes(), type=_MapRecord)
        return LaneMap(
            lanes={lane.id: _lane(lane) for lane in record.lane_segments.values() if lane.lane_type != "BIKE"},
            areas_m=tuple(_points(area.area_boundary, "a drivable area", 3) for area in record.drivable_areas.values()),
        )
    except OSError as error:
        raise DriveError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise DriveError(f"{path}: no map of a log ({error}); {remedy}") from error


def _lane(record: _LaneRecord) -> Lane:
    name = f"lane {record.id}"
    return Lane(
        lane_id=record.id,
        is_intersection=record.is_intersection,
        left_m=_points(record.left_lane_boundary, name, 2)[:, :2],
        right_m=_points(record.right_lane_boundary, name, 2)[:, :2],
        successors=tuple(record.successors),
        left_neighbour=record.left_neighbor_id,
        right_neighbour=record.right_neighbor_id,
    )


def _points(points: list[_Point], what: str, at_least: int) -> F64:
    """(N, 3). Raises ValueError where these are too few, or nowhere a map could be."""
    found = np.array([(point.x, point.y, point.z) for point in points], dtype=np.float64).reshape(-1, 3)
    if len(found) < at_least or not np.all(np.abs(found) < 1e6):
        raise ValueError(f"{what} has {len(found)} points, or one that is no place on a map")
    return found


def _evenly(line_m: F64) -> F64:
    """(20, 2) at even steps along a line (N, 2)."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line_m, axis=0), axis=1))])
    at = np.linspace(0.0, arc[-1], _CENTRE_POINTS)
    return np.stack([np.interp(at, arc, line_m[:, axis]) for axis in (0, 1)], axis=1)
