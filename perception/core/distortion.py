"""Lens distortion on the normalised image plane, there and back.

A distortion polynomial bends back somewhere: beyond that radius two rays share a pixel and the model means nothing.
Everything here ends at that turning point.
"""

from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

Float = NDArray[np.float64]

MAX_PLANE_RADIUS = 10.0
"""Rays further out (84 degrees from the axis of a pinhole) are not looked for when undistorting."""
MAX_FISHEYE_RAD = 0.6 * np.pi

_TABLE = 1024
_NEWTON_STEPS = 8
_MAX_STEP = 0.1


class BrownDistortion:
    """Radial and tangential distortion k1 k2 p1 p2 [k3 [k4 k5 k6]], in OpenCV's order and meaning."""

    def __init__(self, coefficients: Float) -> None:
        k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(coefficients, (0, 8 - len(coefficients)))
        self._p1, self._p2 = p1, p2
        self._above, self._below = Polynomial([1.0, k1, k2, k3]), Polynomial([1.0, k4, k5, k6])
        self._above_slope, self._below_slope = self._above.deriv(), self._below.deriv()
        square = Polynomial([0.0, 2.0])
        rising = self._above * self._below
        rising += square * (self._above_slope * self._below - self._above * self._below_slope)
        self.limit = float(np.sqrt(min(_first_root(rising), _first_root(self._below))))
        """Undistorted radius of the turning point; infinite where there is none."""

    def apply(self, plane: Float) -> Float:
        """Distort plane coordinates (N, 2)."""
        x, y = plane[:, 0], plane[:, 1]
        r2 = x * x + y * y
        radial = self._above(r2) / self._below(r2)
        cross = 2 * x * y
        return np.stack(
            [
                x * radial + self._p1 * cross + self._p2 * (r2 + 2 * x * x),
                y * radial + self._p1 * (r2 + 2 * y * y) + self._p2 * cross,
            ],
            axis=1,
        )

    def invert(self, distorted: Float) -> Float:
        """Undistort plane coordinates (N, 2): a table of the radial part, then Newton on all of it.

        What no ray within the limit reaches comes back at the limit.
        """
        table = np.linspace(0.0, min(self.limit, MAX_PLANE_RADIUS), _TABLE)
        bent = table * self._above(table**2) / self._below(table**2)
        radius = np.hypot(distorted[:, 0], distorted[:, 1])
        scale = np.interp(radius, bent, table) / np.maximum(radius, 1e-12)
        plane = distorted * np.where(radius > 1e-12, scale, 1.0)[:, None]
        for _ in range(_NEWTON_STEPS):
            plane = self._clip(plane - self._newton_step(plane, distorted))
        return plane

    def _newton_step(self, plane: Float, distorted: Float) -> Float:
        x, y = plane[:, 0], plane[:, 1]
        r2 = x * x + y * y
        above, below = self._above(r2), self._below(r2)
        radial = above / below
        slope = (self._above_slope(r2) * below - above * self._below_slope(r2)) / below**2
        xx = radial + 2 * x * x * slope + 2 * self._p1 * y + 6 * self._p2 * x
        yy = radial + 2 * y * y * slope + 6 * self._p1 * y + 2 * self._p2 * x
        xy = 2 * x * y * slope + 2 * self._p1 * x + 2 * self._p2 * y
        off = self.apply(plane) - distorted
        determinant = xx * yy - xy * xy
        safe = np.where(np.abs(determinant) > 1e-9, determinant, 1e-9)
        step = np.stack([yy * off[:, 0] - xy * off[:, 1], xx * off[:, 1] - xy * off[:, 0]], axis=1) / safe[:, None]
        return np.clip(step, -_MAX_STEP, _MAX_STEP)

    def _clip(self, plane: Float) -> Float:
        radius = np.hypot(plane[:, 0], plane[:, 1])
        limit = min(self.limit, MAX_PLANE_RADIUS)
        return plane * np.minimum(1.0, limit / np.maximum(radius, 1e-12))[:, None]


class FisheyeDistortion:
    """Equidistant fisheye k1 k2 k3 k4: the angle t from the axis lands at t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8)."""

    def __init__(self, coefficients: Float) -> None:
        factors = np.array([1.0, *coefficients])
        self._factor, self._slope = Polynomial(factors), Polynomial(factors * (2 * np.arange(len(factors)) + 1))
        self.limit = min(MAX_FISHEYE_RAD, float(np.sqrt(_first_root(self._slope))))
        """Largest angle from the axis that the model means."""

    def apply(self, theta: Float) -> Float:
        """Radius on the image plane of angles (N,) from the axis."""
        bent: Float = theta * self._factor(theta * theta)
        return bent

    def invert(self, radius: Float) -> Float:
        """Angles (N,) from the axis of radii on the image plane; those beyond the limit come back at the limit."""
        table = np.linspace(0.0, self.limit, _TABLE)
        theta = np.interp(radius, self.apply(table), table)
        for _ in range(_NEWTON_STEPS):
            slope = np.maximum(self._slope(theta * theta), 1e-9)
            theta = np.clip(theta - np.clip((self.apply(theta) - radius) / slope, -_MAX_STEP, _MAX_STEP), 0, self.limit)
        return theta


def _first_root(polynomial: Any) -> float:
    """Smallest positive real root; infinite where there is none."""
    roots = polynomial.trim(1e-15).roots()
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 1e-12)]
    return float(real.min()) if len(real) else float("inf")
