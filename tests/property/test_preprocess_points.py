"""Points: cropping, thinning and padding hold for any cloud."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.config.schema import LidarConfig, ModelConfig
from perception.models.preprocess import Z_RANGE_M, pack_points, pack_radar

SMALL = ModelConfig(lidar=LidarConfig(max_points=64))
EDGES = [np.nan, np.inf, -np.inf, 0.0, 51.2, -51.2, 51.1999, 1e30, 7.0, -5.0]


def cloud(seed: int, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-70, 70, (count, 3)) * np.array([1.0, 1.0, 0.1])
    odd = rng.random((count, 3)) < 0.1
    points[odd] = rng.choice(EDGES, odd.sum())
    packed: NDArray[np.float32] = points.astype(np.float32)
    return packed


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 300))
def test_packed_points_are_inside_finite_and_in_order(seed: int, count: int) -> None:
    points = cloud(seed, count)
    intensity = (np.arange(count) / 1000).astype(np.float32)  # names each point
    packed, kept = pack_points(points, intensity, None, SMALL)
    n = int(kept)
    assert packed.shape == (64, 5)
    assert packed.dtype == np.float32
    assert np.all(np.isfinite(packed))
    assert np.all(packed[n:] == 0)
    assert np.all(np.abs(packed[:n, :2]) < SMALL.range_m)
    assert np.all((packed[:n, 2] > Z_RANGE_M[0]) & (packed[:n, 2] < Z_RANGE_M[1]))
    which = np.round(packed[:n, 3] * 1000).astype(int)
    assert np.all(np.diff(which) > 0)
    np.testing.assert_array_equal(packed[:n, :3], points[which])
    with np.errstate(invalid="ignore"):
        inside = np.all(np.abs(points[:, :2]) < SMALL.range_m, axis=1)
        inside &= (points[:, 2] > Z_RANGE_M[0]) & (points[:, 2] < Z_RANGE_M[1])
    assert n == min(64, inside.sum())
    # Thinning is even: no two kept points leave out more than the share of points there are.
    gaps = np.diff(np.flatnonzero(np.isin(np.flatnonzero(inside), which)))
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 600))
def test_packed_radar_is_finite_whatever_comes_in(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = cloud(seed, count)
    wild = rng.choice([np.nan, np.inf, -np.inf, 1e20, 3.0], (count, 4)).astype(np.float32)
    packed, kept = pack_radar(points, wild[:, 0], wild[:, 1:3], wild[:, 3], SMALL)
    assert packed.shape == (512, 7)
    assert np.all(np.isfinite(packed))
    assert np.abs(packed).max(initial=0) <= 80
    assert 0 <= int(kept) <= 512


def test_packing_twice_gives_the_same() -> None:
    points = cloud(3, 5000)
    first, _ = pack_points(points, np.zeros(5000, np.float32), None, SMALL)
    second, _ = pack_points(points, np.zeros(5000, np.float32), None, SMALL)
    np.testing.assert_array_equal(first, second)
