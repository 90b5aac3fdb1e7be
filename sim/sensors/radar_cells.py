"""Scattering points of a radar, and what is left of them once its resolution has merged neighbours."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sim.rig import RadarConfig

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scatterers:
    """N points. points_m: (N, 3) in the radar frame. rcs_dbsm: (N,). rate_mps: (N,) range rate over ground.

    velocity_mps, normal: (N, 3) in the radar's axes. is_true: (N,) False for ghosts and clutter.
    """

    points_m: F64
    rcs_dbsm: F64
    rate_mps: F64
    velocity_mps: F64
    normal: F64
    is_true: Bool

    def __len__(self) -> int:
        return len(self.points_m)

    @classmethod
    def empty(cls) -> "Scatterers":
        none, rows = np.zeros(0), np.zeros((0, 3))
        return cls(
            points_m=rows, rcs_dbsm=none, rate_mps=none, velocity_mps=rows, normal=rows, is_true=np.zeros(0, dtype=bool)
        )

    def rows(self, keep: Bool | I64) -> "Scatterers":
        return Scatterers(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def polar(self) -> tuple[F64, F64, F64]:
        """Range, azimuth and elevation, (N,) each."""
        x, y, z = self.points_m.T
        return np.linalg.norm(self.points_m, axis=1), np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))

    def line_of_sight(self) -> F64:
        """Unit vectors (N, 3) from the radar to each point."""
        length = np.maximum(np.linalg.norm(self.points_m, axis=1, keepdims=True), 1e-9)
        unit: F64 = self.points_m / length
        return unit


def concatenate(*parts: Scatterers) -> Scatterers:
    return Scatterers(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Scatterers)}
    )


def merge_cells(seen: Scatterers, own_mps: F64, config: RadarConfig) -> Scatterers:
    """One return for each cell of range, azimuth and speed; its values are means weighted by power.

    own_mps: (3,) velocity of the radar in its own axes: resolution in speed is of the raw range rate.
    """
    if len(seen) == 0:
        return seen
    distance, azimuth, _ = seen.polar()
    raw = seen.rate_mps - seen.line_of_sight() @ own_mps
    cell = np.stack(
        [
            np.floor(distance / config.range_cell_m),
            np.floor(azimuth / np.radians(config.azimuth_cell_deg)),
            np.floor(raw / config.speed_cell_mps),
        ],
        axis=1,
    ).astype(np.int64)
    _, first, group = np.unique(cell, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    power = 10 ** (seen.rcs_dbsm / 10)
    total = np.bincount(group, weights=power)

    def mean(values: F64) -> F64:
        columns = values.reshape(len(values), -1)
        summed = np.stack([np.bincount(group, weights=power * column) for column in columns.T], axis=1)
        averaged: F64 = (summed / total[:, None]).reshape(-1, *values.shape[1:])
        return averaged

    return Scatterers(
        points_m=mean(seen.points_m),
        rcs_dbsm=10 * np.log10(total),
        rate_mps=mean(seen.rate_mps),
        velocity_mps=mean(seen.velocity_mps),
        normal=seen.normal[first],
        is_true=mean(seen.is_true.astype(np.float64)) > 0.5,
    )
