"""Lidar points on the device: moved to the reference time, cropped, thinned and packed, without asking how many.

The same as `sweep_at_reference` and `pack_points` on the host, to a millimetre. Static shapes: clouds come in buffers
of a few sizes, and what is left of them in one of the network's size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ModelConfig
from perception.core.messages import LidarSweep, SweepMotion
from perception.core.motion import EgoMotion
from perception.models.backends.shapes import round_up
from perception.models.backends.transfer import to_device
from perception.models.preprocess import MAX_OFFSET_S, Z_RANGE_M

F64 = NDArray[np.float64]
Function = Callable[..., tuple[Tensor, ...]]

CLOUD_SIZES: Final = tuple(2**power for power in range(13, 21))
SEGMENTS: Final = 64
"""Motion segments come in multiples of this."""
FAR_NS: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawClouds:
    """The points of one or several sweeps as they were measured, N of them with padding, and how to move them.

    points_m: (N, 3) float32 in the sensor's frame. intensity: (N,) float32. offset_ns: (N,) int32 from the sweep's
    capture. sweep: (N,) int64, which sweep a point is of. count: () int64, real points; the rest is padding.
    pre_SE3: (S, 4, 4) float32, applied first. is_deskewed: (S,) bool, True where the motion of the ego during the sweep
    is to be taken out then. age_ns: (S,) int64, capture from the reference on.
    knots_ns: (K + 1,) int64 from the reference on; last_segment: () int64; start, linear, square: (K, 3, 3); start_m,
    shift_m: (K, 3): as `MotionSegments`.
    """

    points_m: Tensor
    intensity: Tensor
    offset_ns: Tensor
    sweep: Tensor
    count: Tensor
    pre_SE3: Tensor
    is_deskewed: Tensor
    age_ns: Tensor
    knots_ns: Tensor
    last_segment: Tensor
    start: Tensor
    start_m: Tensor
    linear: Tensor
    square: Tensor
    shift_m: Tensor


class DevicePoints:
    """Sweeps to what the lidar encoder takes, on `device`. wrap: what makes a function fast there (`Recorded`)."""

    def __init__(self, config: ModelConfig, device: torch.device, wrap: Callable[[Function], Function]) -> None:
        self._config, self._device = config, device
        self._pack = wrap(self._packed)

    def pack(self, sweeps: Sequence[LidarSweep], ego_SE3_sensor: F64, motion: EgoMotion) -> tuple[Tensor, Tensor]:
        """Points (P, 5) as `LIDAR_FIELDS`, zeros behind the count (), at the reference time of `motion`.

        sweeps: of one lidar, at least one.
        """
        slots = self._config.lidar.sweeps
        clouds = raw_clouds(sweeps, ego_SE3_sensor, motion, slots=max(slots, len(sweeps)))
        tensors = [to_device(getattr(clouds, field.name), self._device) for field in fields(clouds)]
        points, count = self._pack(*tensors)
        return points, count

    def _packed(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        clouds = RawClouds(**{field.name: one for field, one in zip(fields(RawClouds), tensors, strict=True)})
        moved, offset_s = move_clouds(clouds)
        is_real = torch.arange(len(moved), device=moved.device) < clouds.count
        is_real &= torch.isfinite(clouds.intensity)
        columns = torch.stack([clouds.intensity.clamp(0.0, 1.0), offset_s.clamp(-MAX_OFFSET_S, MAX_OFFSET_S)], dim=1)
        rows = torch.cat([moved, columns], dim=1)  # (N, 5)
        return pack_rows(rows, is_real, self._config.range_m, self._config.lidar.max_points)


def raw_clouds(sweeps: Sequence[LidarSweep], ego_SE3_sensor: F64, motion: EgoMotion, *, slots: int) -> RawClouds:
    """What `DevicePoints` uploads, on the host. slots: S, of which those beyond the sweeps are empty."""
    count = sum(len(sweep.points_m) for sweep in sweeps)
    size = round_up(count, CLOUD_SIZES)
    points, intensity = np.zeros((size, 3), dtype=np.float32), np.zeros(size, dtype=np.float32)
    offset, of = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int64)
    pre, is_deskewed = np.tile(np.eye(4, dtype=np.float32), (slots, 1, 1)), np.zeros(slots, dtype=np.bool_)
    age = np.zeros(slots, dtype=np.int64)
    first = 0
    for i, sweep in enumerate(sweeps):
        rows = slice(first, first + len(sweep.points_m))
        points[rows], intensity[rows], of[rows] = sweep.points_m, sweep.intensity, i
        if sweep.point_offset_ns is not None:
            offset[rows] = sweep.point_offset_ns
        is_deskewed[i] = sweep.motion is SweepMotion.RAW and sweep.point_offset_ns is not None
        pre[i] = ego_SE3_sensor if is_deskewed[i] else motion.at(sweep.capture_ns) @ ego_SE3_sensor
        age[i] = sweep.capture_ns - motion.reference_ns
        first = rows.stop
    named = {
        "points_m": points,
        "intensity": intensity,
        "offset_ns": offset,
        "sweep": of,
        "count": np.array(count, dtype=np.int64),
        "pre_SE3": pre,
        "is_deskewed": is_deskewed,
        "age_ns": age,
        **_segments(motion),
    }
    return RawClouds(**{name: torch.from_numpy(array) for name, array in named.items()})


def _segments(motion: EgoMotion) -> dict[str, NDArray[np.generic]]:
    """The ego's track in arrays of a multiple of `SEGMENTS` rows; those behind the last are never reached."""
    track = motion.segments()
    real = len(track.linear)
    rows = -(-real // SEGMENTS) * SEGMENTS
    knots = np.full(rows + 1, FAR_NS, dtype=np.int64)
    knots[: real + 1] = track.knots_ns - motion.reference_ns
    start, start_m = np.zeros((rows, 3, 3), dtype=np.float32), np.zeros((rows, 3), dtype=np.float32)
    linear, square, shift = np.zeros_like(start), np.zeros_like(start), np.zeros_like(start_m)
    start[:real], start_m[:real] = track.start_SE3[:, :3, :3], track.start_SE3[:, :3, 3]
    linear[:real], square[:real], shift[:real] = track.linear, track.square, track.shift
    return {
        "knots_ns": knots,
        "last_segment": np.array(real - 1, dtype=np.int64),
        "start": start,
        "start_m": start_m,
        "linear": linear,
        "square": square,
        "shift_m": shift,
    }


def move_clouds(clouds: RawClouds) -> tuple[Tensor, Tensor]:
    """Points (N, 3) in the ego frame at the reference, and when each was measured (N,), in seconds from it on."""
    pre = clouds.pre_SE3[clouds.sweep]  # (N, 4, 4)
    points = _turned(pre[:, :3, :3], clouds.points_m) + pre[:, :3, 3]  # (N, 3)
    since_ns = clouds.offset_ns.long() + clouds.age_ns[clouds.sweep]  # (N,)

    segment = torch.searchsorted(clouds.knots_ns, since_ns, right=True) - 1
    segment = torch.minimum(segment.clamp(min=0), clouds.last_segment)  # (N,)
    begin, end = clouds.knots_ns[segment], clouds.knots_ns[segment + 1]
    share = ((since_ns - begin).double() / (end - begin)).float()[:, None]  # (N, 1)
    bent = _turned(clouds.linear[segment].transpose(1, 2), points) + clouds.shift_m[segment]
    bent = bent + share * _turned(clouds.square[segment].transpose(1, 2), points)
    moved = _turned(clouds.start[segment], points) + clouds.start_m[segment] + share * bent
    is_deskewed = clouds.is_deskewed[clouds.sweep][:, None]  # (N, 1)
    return torch.where(is_deskewed, moved, points), (since_ns.double() * 1e-9).float()


def pack_rows(rows: Tensor, is_real: Tensor, range_m: float, cap: int) -> tuple[Tensor, Tensor]:
    """Rows (N, F), x, y and z first, cropped and thinned as by `pack_points`: (cap, F) and their count () int64.

    The rank of each row kept comes from a running sum, the row of each place from a search in it: nothing is counted on
    the host. A comparison with NaN is False, so that what is not finite is left out.
    """
    x, y, z = rows[:, 0], rows[:, 1], rows[:, 2]
    is_kept = is_real & (x.abs() < range_m) & (y.abs() < range_m) & (z > Z_RANGE_M[0]) & (z < Z_RANGE_M[1])
    rank = is_kept.long().cumsum(0)  # (N,) rows kept up to here
    total = rank[-1]
    place = torch.arange(cap, device=rows.device)
    wanted = torch.where(total > cap, place * total // cap, place)  # (cap,) which of the kept ones
    row = torch.searchsorted(rank, wanted + 1).clamp(max=len(rows) - 1)
    count = total.clamp(max=cap)
    packed = torch.where((place < count)[:, None], rows[row], 0.0)
    return packed, count


def _turned(rotation: Tensor, points: Tensor) -> Tensor:
    """rotation (N, 3, 3) of points (N, 3), in float32 whatever matrix units would do."""
    return (rotation * points[:, None, :]).sum(dim=-1)
