"""What a radar reports beside the plain truth: weak targets it misses, ghosts of a second bounce, clutter."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.rig import RadarConfig
from sim.sensors.radar_cells import Scatterers, concatenate

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_STEP_DB: Final = 3.0
"""Width of the step from never to always detected."""
_FLOOR_DBSM: Final = -3.0
"""Weaker echoes are not reported, however near."""
_DOUBLE_LOSS_DB: Final = 12.0
_MIRROR_LOSS_DB: Final = 8.0
_DOUBLE_REACH_M: Final = 40.0


def is_detected(seen: Scatterers, config: RadarConfig, rng: np.random.Generator) -> Bool:
    """Whether each echo (N,) rises above the noise: it falls with the fourth power of range (the radar equation)."""
    distance = np.maximum(seen.polar()[0], 1.0)
    needed = config.sensitivity_dbsm + 40 * np.log10(distance / 50.0)
    # Close by the receiver is turned down: weak ground echoes do not fill the scan.
    needed = np.maximum(needed, _FLOOR_DBSM)
    margin = np.clip((seen.rcs_dbsm - needed) / (_STEP_DB / 4), -50, 50)
    detected: Bool = rng.random(len(seen)) < 1 / (1 + np.exp(-margin))
    return detected


def add_ghosts(seen: Scatterers, walls: Scatterers, config: RadarConfig, rng: np.random.Generator) -> Scatterers:
    """Add second bounces: off the ego and back again (twice the range and speed), or mirrored in a wall."""
    n = len(seen)
    if n == 0 or config.ghost_share == 0.0:
        return seen
    lot = rng.random(n)
    distance = seen.polar()[0]
    twice = seen.rows((lot < config.ghost_share / 2) & (distance < _DOUBLE_REACH_M) & (seen.rcs_dbsm > 5))
    doubled = replace(
        twice,
        points_m=twice.points_m * 2,
        rate_mps=twice.rate_mps * 2,
        velocity_mps=twice.velocity_mps * 2,
        rcs_dbsm=twice.rcs_dbsm - _DOUBLE_LOSS_DB,
        is_true=np.zeros(len(twice), dtype=bool),
    )
    mirror = walls.rows((np.abs(walls.normal[:, 2]) < 0.3) & (walls.rcs_dbsm > 0))
    moving = seen.rows((lot > 1 - config.ghost_share) & (np.linalg.norm(seen.velocity_mps, axis=1) > 1))
    if len(mirror) == 0 or len(moving) == 0:
        return concatenate(seen, doubled)
    wall = mirror.rows(rng.integers(len(mirror), size=len(moving)))
    depth = np.einsum("ni,ni->n", moving.points_m - wall.points_m, wall.normal)[:, None]
    points = moving.points_m - 2 * depth * wall.normal
    across = np.einsum("ni,ni->n", moving.velocity_mps, wall.normal)[:, None]
    velocity = moving.velocity_mps - 2 * across * wall.normal
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    mirrored = replace(
        moving,
        points_m=points,
        velocity_mps=velocity,
        rate_mps=np.einsum("ni,ni->n", unit, velocity),
        rcs_dbsm=moving.rcs_dbsm - _MIRROR_LOSS_DB,
        is_true=np.zeros(len(moving), dtype=bool),
    )
    half = np.radians(config.field_of_view_deg) / 2
    far, azimuth, _ = mirrored.polar()
    return concatenate(seen, doubled, mirrored.rows((np.abs(azimuth) < half) & (far < config.max_range_m)))


def add_clutter(seen: Scatterers, config: RadarConfig, half_view_rad: float, rng: np.random.Generator) -> Scatterers:
    """Add false alarms: weak returns anywhere in view, most of them at the speed of standing ground."""
    n = int(rng.poisson(config.clutter_per_scan))
    distance = rng.uniform(2.0, config.max_range_m, n) * rng.random(n)
    azimuth = rng.uniform(-half_view_rad, half_view_rad, n)
    zero = np.zeros((n, 3))
    false = Scatterers(
        points_m=np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), np.zeros(n)], axis=1),
        rcs_dbsm=rng.normal(-2.0, 3.0, n),
        rate_mps=np.where(rng.random(n) < 0.8, 0.0, rng.normal(0, 6.0, n)),
        velocity_mps=zero,
        normal=zero,
        is_true=np.zeros(n, dtype=bool),
    )
    return concatenate(seen, false)
