"""Beam tables: the elevation of each laser of a spinning lidar, lowest first."""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def beam_elevations_rad(beams: int) -> F64:
    """Elevations (beams,) of a 32-, 64- or 128-beam lidar. Raises ValueError for another number.

    Spacing after the makers' data sheets: 32 beams evenly from -30.67 to 10.67 degrees (HDL-32E); 64 in two blocks, the
    lower one coarser (HDL-64E); 128 from -25 to 15 degrees, densest at the horizon (VLS-128).
    """
    if beams == 32:
        degrees = np.linspace(-30.67, 10.67, 32)
    elif beams == 64:
        degrees = np.concatenate([np.linspace(-24.33, -8.83, 32), np.linspace(-8.33, 2.0, 32)])
    elif beams == 128:
        outer_low, middle = np.linspace(-25.0, -6.6, 32, endpoint=False), np.linspace(-6.6, 3.8, 80, endpoint=False)
        degrees = np.concatenate([outer_low, middle, np.linspace(3.8, 15.0, 16)])
    else:
        raise ValueError(f"no beam table for {beams} beams; known: 32, 64, 128")
    return np.radians(degrees)
