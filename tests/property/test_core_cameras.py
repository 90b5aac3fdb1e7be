"""Camera models: what is visible lies on the ray of its pixel, for every lens; numbers agree with OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection

Float = NDArray[np.float64]


def camera(projection: Projection, distortion: list[float], *, focal: float = 500.0, xi: float = 0.0) -> CameraModel:
    intrinsic = np.array([[focal, 0.0, 639.5], [0.0, focal * 1.02, 359.5], [0.0, 0.0, 1.0]])
    return CameraModel(
        width_px=1280,
        height_px=720,
        intrinsic=intrinsic,
        projection=projection,
        distortion=np.array(distortion),
        xi=xi,
    )


CAMERAS = {
    "pinhole": camera(Projection.PINHOLE, []),
    "barrel": camera(Projection.BROWN, [-0.35, 0.12, 0.001, -0.001, -0.02]),
    "pincushion": camera(Projection.BROWN, [0.2, 0.1, 0.0, 0.001], focal=900.0),
    "rational": camera(Projection.BROWN, [5.0, 2.0, 0.0005, 0.0, 0.1, 5.4, 3.5, 0.6]),
    "fisheye": camera(Projection.KANNALA_BRANDT, [0.05, -0.02, 0.01, -0.003], focal=350.0),
    "fisheye that bends back": camera(Projection.KANNALA_BRANDT, [-0.05, -0.02, -0.01, -0.003], focal=250.0),
    "unified": camera(Projection.MEI, [-0.2, 0.05, 0.001, 0.0], xi=0.8),
    "unified that bends back": camera(Projection.MEI, [0.0336, -0.0842, 0.0, 0.0], xi=1.022, focal=530.0),
    "unified wide": camera(Projection.MEI, [-0.1, 0.05, 0.0, 0.0], xi=1.5, focal=700.0),
}


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(CAMERAS)), seed=st.integers(0, 2**32 - 1))
def test_a_visible_point_lies_on_the_ray_of_its_pixel(name: str, seed: int) -> None:
    model = CAMERAS[name]
    points = np.random.default_rng(seed).normal(size=(2000, 3)) * 20
    pixels, is_visible = model.project(points)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    along = np.sum(model.rays(pixels[is_visible]) * directions[is_visible], axis=1)
    degrees = np.degrees(np.arccos(np.clip(along, -1, 1)))
    assert is_visible.any()
    # The last hair's breadth before a lens bends back is ill-conditioned; a mirrored point would be off by tens.
    assert degrees.max() < 0.5
    assert np.mean(degrees > 0.01) < 0.02


@pytest.mark.parametrize("name", ["pinhole", "pincushion", "rational", "unified"])
def test_each_pixel_projects_back_to_itself(name: str) -> None:
    model = CAMERAS[name]
    grid = np.meshgrid(np.linspace(0, model.width_px - 1, 30), np.linspace(0, model.height_px - 1, 20))
    pixels = np.stack(grid, axis=-1).reshape(-1, 2)
    rays = model.rays(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, atol=1e-12)
    back, is_visible = model.project(rays * 7.0)
    assert is_visible.all()
    np.testing.assert_allclose(back, pixels, atol=1e-6)


@pytest.mark.parametrize("name", ["pinhole", "barrel", "pincushion", "rational"])
def test_brown_agrees_with_opencv(name: str) -> None:
    model = CAMERAS[name]
    points = np.random.default_rng(0).uniform([-4, -2, 6], [4, 2, 30], (500, 3))
    pixels, is_visible = model.project(points)
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), model.intrinsic, model.distortion)
    assert is_visible.sum() > 400
    np.testing.assert_allclose(pixels[is_visible], np.asarray(expected)[:, 0][is_visible], atol=1e-6)


def test_the_fisheye_agrees_with_opencv() -> None:
    model = CAMERAS["fisheye"]
    points = np.random.default_rng(0).uniform([-10, -5, 2], [10, 5, 30], (500, 3))
    pixels, is_visible = model.project(points)
    expected, _ = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), model.intrinsic, model.distortion
    )
    assert is_visible.sum() > 300
    np.testing.assert_allclose(pixels[is_visible], np.asarray(expected)[:, 0][is_visible], atol=1e-6)


@pytest.mark.parametrize("name", sorted(CAMERAS))
def test_what_is_behind_a_camera_is_not_seen(name: str) -> None:
    points = np.array([[0.0, 0.0, -5.0], [0.3, -0.2, -9.0], [0.0, 0.0, 0.0]])
    _, is_visible = CAMERAS[name].project(points)
    assert not is_visible.any()


def test_a_fisheye_sees_to_the_side() -> None:
    pixels, is_visible = CAMERAS["unified wide"].project(np.array([[5.0, 0.0, 0.0]]))
    assert is_visible.all()
    assert pixels[0, 0] > 900


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"width_px": 0}, "positive"),
        ({"intrinsic": np.full((3, 3), np.nan)}, "finite"),
        ({"intrinsic": np.diag([-1.0, 1.0, 1.0])}, "focal"),
        ({"distortion": np.zeros(3)}, "coefficients"),
    ],
)
def test_numbers_that_make_no_camera_are_refused(changes: dict[str, object], complaint: str) -> None:
    settings_of = {"width_px": 8, "height_px": 8, "intrinsic": np.eye(3), "distortion": np.zeros(0)} | changes
    with pytest.raises(ValueError, match=complaint):
        CameraModel(**settings_of)  # type: ignore[arg-type]
