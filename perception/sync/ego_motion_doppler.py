"""Ego velocity from the Doppler of standing targets.

A standing target seen along the unit vector u from a radar that moves at v_s has the range rate -u . v_s (Kellner,
Barjenbruch, Klappstein, Dickmann and Dietmayer, "Instantaneous ego-motion estimation using Doppler radar", ITSC 2013).
With the mount at (x, y) in the ego frame, v_s = (vx - yaw_rate * y, vy + yaw_rate * x), linear in (vx, vy, yaw_rate).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import EgoState, RadarScan

F64 = NDArray[np.float64]

NOISE_MPS = 0.15
"""Standard deviation of a range rate."""
GATE_MPS = 0.6
"""A return further than this from what a standing target would show is a moving one."""
MIN_STATIC = 5
MIN_STATIC_SHARE = 0.3
MAX_SPEED_MPS = 90.0
MAX_YAW_RATE_RADPS = 1.5

# The origin of the ego frame is the rear axle, which hardly slips sideways: this is what tells the yaw rate from the
# sideways motion of a single radar. What slip seems to be there grows with speed, by mounts that are not quite straight
# (0.6 degrees are 0.3 m/s at 30 m/s), while the yaw rate is bounded by the lateral acceleration of normal driving.
_SLIP_MPS = 0.1
_MISALIGNMENT_RAD = 0.012
_YAW_RATE_RADPS = 0.4
_LATERAL_ACCELERATION_MPS2 = 2.0
_SPEED_MPS = 60.0
_ACCELERATION_MPS2 = 8.0
_SLIP_MEMORY_S = 10.0
_YAW_RATE_MEMORY_S = 2.0
_MAX_HYPOTHESIS_RETURNS = 48
_REWEIGHTINGS = 5
_MAX_AGE_NS = 60_000_000
_FORGET_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Returns:
    """Returns of one or several radars; N rows.

    rates: (N, 3) float64, minus the range rate that a standing target gains for each of (vx, vy, yaw_rate).
    radial_mps: (N,) float64 as measured.
    """

    rates: F64
    radial_mps: F64

    def residuals(self, twist: F64) -> F64:
        """Measured minus expected range rate (..., N) of standing targets under twists (..., 3)."""
        off: F64 = self.radial_mps + twist @ self.rates.T
        return off


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DopplerFit:
    """twist: (3,) vx, vy, yaw_rate; covariance: (3, 3); static: returns that fit a standing world, of `total`."""

    twist: F64
    covariance: F64
    static: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """What is known of (vx, vy, yaw_rate) before the scan: mean (3,), covariance (3, 3)."""

    mean: F64
    covariance: F64

    @classmethod
    def at_speed(cls, speed_mps: float) -> "Prior":
        """How vehicles move at a speed: sideways next to nothing, turning the less the faster."""
        speed = abs(speed_mps)
        slip = _SLIP_MPS + _MISALIGNMENT_RAD * speed
        yaw_rate = min(_YAW_RATE_RADPS, _LATERAL_ACCELERATION_MPS2 / max(speed, 1e-3))
        return cls(mean=np.zeros(3), covariance=np.diag([_SPEED_MPS**2, slip**2, yaw_rate**2]))

    def after(self, last: DopplerFit, elapsed_s: float) -> "Prior":
        """What a fit says `elapsed_s` later: slip and yaw rate fade into this prior (Ornstein and Uhlenbeck's process).

        The slip is kept too: its cause stays, and forgetting it would let the yaw rate take its place.
        """
        memory = np.array([np.inf, _SLIP_MEMORY_S, _YAW_RATE_MEMORY_S])
        kept = np.exp(-elapsed_s / memory)
        fresh = (1 - kept**2) * np.diag(self.covariance)
        fresh[0] = (_ACCELERATION_MPS2 * elapsed_s) ** 2
        return Prior(mean=kept * last.twist, covariance=np.outer(kept, kept) * last.covariance + np.diag(fresh))


def stack_returns(scans: Sequence[RadarScan], mounts: Sequence[F64]) -> Returns:
    """The valid, finite returns of scans (with their `ego_SE3_sensor` mounts) as rows of one linear system."""
    rates, radials = [np.zeros((0, 3))], [np.zeros(0)]
    for scan, ego_SE3_sensor in zip(scans, mounts, strict=True):
        is_used = scan.is_valid & np.isfinite(scan.points_m).all(axis=1) & np.isfinite(scan.radial_mps)
        points = scan.points_m[is_used].astype(np.float64)
        ranges = np.linalg.norm(points, axis=1, keepdims=True)
        direction = points / np.maximum(ranges, 1e-6) @ ego_SE3_sensor[:3, :3].T
        x_m, y_m = ego_SE3_sensor[:2, 3]
        turning = direction[:, 1] * x_m - direction[:, 0] * y_m
        rates.append(np.stack([direction[:, 0], direction[:, 1], turning], axis=1))
        radials.append(scan.radial_mps[is_used].astype(np.float64))
    return Returns(rates=np.concatenate(rates), radial_mps=np.concatenate(radials))


def fit_ego_velocity(returns: Returns, last: DopplerFit | None = None, elapsed_s: float = 0.0) -> DopplerFit | None:
    """The twist under which most returns stand still; None where too few do to tell.

    Hypotheses from pairs of returns (exhaustive, so no randomness), the one with the most standing returns refined by
    reweighted least squares with a prior from how vehicles move and from the `last` fit, `elapsed_s` ago.
    """
    total = len(returns.radial_mps)
    twist = _best_hypothesis(returns) if total >= MIN_STATIC else None
    if twist is None:
        return None
    prior = Prior.at_speed(float(twist[0]))
    prior = prior if last is None else prior.after(last, elapsed_s)
    gate = 2 * GATE_MPS
    information = np.linalg.inv(prior.covariance)
    for _ in range(_REWEIGHTINGS):
        # Tukey's biweight: what is outside of the gate has no pull at all.
        weight = np.maximum(1 - (returns.residuals(twist) / gate) ** 2, 0.0) ** 2 / NOISE_MPS**2
        weighted = returns.rates * weight[:, None]
        normal = returns.rates.T @ weighted + information
        pull = information @ prior.mean - weighted.T @ returns.radial_mps
        twist = np.asarray(np.linalg.solve(normal, pull), dtype=np.float64)
        gate = GATE_MPS
    static = int(np.count_nonzero(np.abs(returns.residuals(twist)) < GATE_MPS))
    is_plausible = abs(twist[0]) <= MAX_SPEED_MPS and abs(twist[2]) <= MAX_YAW_RATE_RADPS
    if static < max(MIN_STATIC, MIN_STATIC_SHARE * total) or not is_plausible:
        return None
    return DopplerFit(twist=twist, covariance=np.linalg.inv(normal), static=static, total=total)


def _best_hypothesis(returns: Returns) -> F64 | None:
    """The twist without sideways slip, through two returns, that most returns agree with."""
    total = len(returns.radial_mps)
    chosen = np.unique(np.linspace(0, total - 1, min(total, _MAX_HYPOTHESIS_RETURNS)).astype(np.int64))
    first, second = (chosen[rows] for rows in np.triu_indices(len(chosen), k=1))
    a, b = returns.rates[first], returns.rates[second]
    determinant = a[:, 0] * b[:, 2] - a[:, 2] * b[:, 0]
    is_stiff = np.abs(determinant) > 0.05
    safe = np.where(is_stiff, determinant, 1.0)
    along = -(returns.radial_mps[first] * b[:, 2] - returns.radial_mps[second] * a[:, 2]) / safe
    turning = -(returns.radial_mps[second] * a[:, 0] - returns.radial_mps[first] * b[:, 0]) / safe
    is_stiff = is_stiff & (np.abs(turning) <= MAX_YAW_RATE_RADPS)
    is_ahead = np.abs(returns.rates[:, 0]) > 0.2
    straight = -returns.radial_mps[is_ahead] / returns.rates[is_ahead, 0]
    speeds = np.concatenate([straight, along[is_stiff]])
    yaw_rates = np.concatenate([np.zeros(len(straight)), turning[is_stiff]])
    if len(speeds) == 0:
        return None
    twists = np.stack([speeds, np.zeros(len(speeds)), yaw_rates], axis=1)
    off = np.abs(returns.residuals(twists))
    # Counts standing returns; among equals the closer fit, so that the order of the returns decides nothing.
    support = np.maximum(1 - (off / GATE_MPS) ** 2, 0.0).sum(axis=1)
    return np.array(twists[int(np.argmax(support))])


class DopplerOdometry:
    """Turns radar scans into EgoState, scan by scan; the last fit, loosened by the time since, is the next one's prior.

    Scans of other radars up to 60 ms older join in, which ties the yaw rate down where their mounts are apart.
    """

    def __init__(self) -> None:
        self._recent: dict[str, tuple[RadarScan, F64]] = {}
        self._last: tuple[int, DopplerFit] | None = None

    def observe(self, scan: RadarScan, ego_SE3_sensor: F64) -> EgoState | None:
        """Velocity and yaw rate at the scan's capture time, None if too few targets stand still to tell."""
        self._recent[scan.sensor] = (scan, ego_SE3_sensor)
        joined = [pair for pair in self._recent.values() if abs(pair[0].capture_ns - scan.capture_ns) <= _MAX_AGE_NS]
        returns = stack_returns([pair[0] for pair in joined], [pair[1] for pair in joined])
        elapsed_s = 0.0 if self._last is None else abs(scan.capture_ns - self._last[0]) / 1e9
        is_fresh = self._last is not None and elapsed_s <= _FORGET_S
        fit = fit_ego_velocity(returns, self._last[1] if self._last and is_fresh else None, elapsed_s)
        if fit is None:
            return None
        self._last = (scan.capture_ns, fit)
        return EgoState(
            capture_ns=scan.capture_ns,
            arrival_ns=scan.arrival_ns,
            world_SE3_ego=None,
            velocity_mps=fit.twist[:2].copy(),
            yaw_rate_radps=float(fit.twist[2]),
        )
