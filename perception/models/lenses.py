"""Cameras as numbers on a device: one formula for all lens models, so that nothing asks a GPU which it holds."""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ImageConfig
from perception.core.cameras import CameraModel, Projection
from perception.core.distortion import BrownDistortion, FisheyeDistortion
from perception.models.preprocess import ImageTransform

CAMERA_FIELDS: Final = (
    "kind",
    "fx",
    "skew",
    "cx",
    "fy",
    "cy",
    "xi",
    *(f"d{i}" for i in range(8)),
    "limit",
    "top_px",
)
"""One camera in network pixels. kind: place in `list(Projection)`; d: coefficients in the model's order, zeros behind;
limit: undistorted radius (pinhole, Brown, Mei) or angle (Kannala-Brandt) where the lens model ends, large if it does
not."""

_KIND = {projection: place for place, projection in enumerate(Projection)}
_COLUMN = {name: place for place, name in enumerate(CAMERA_FIELDS)}

NEAREST_M = 1e-3
"""As in `CameraModel.project`: least depth of a pinhole's points, and distance kept from the limit of Mei's cone."""

NO_LIMIT = 1e6
"""Stands for a lens model that ends nowhere; its square is finite in single precision."""


def camera_vector(camera: CameraModel, top_px: float) -> NDArray[np.float32]:
    """One camera in network pixels as `CAMERA_FIELDS`, (17,)."""
    k = camera.intrinsic
    coefficients = np.pad(camera.distortion, (0, 8 - len(camera.distortion)))
    limit = NO_LIMIT
    if camera.projection is Projection.KANNALA_BRANDT:
        limit = FisheyeDistortion(camera.distortion).limit
    elif len(camera.distortion):
        limit = min(NO_LIMIT, BrownDistortion(camera.distortion).limit)
    numbers = (k[0, 0], k[0, 1], k[0, 2], k[1, 1], k[1, 2], camera.xi, *coefficients, limit, top_px)
    return np.array([_KIND[camera.projection], *numbers], dtype=np.float32)


def network_camera(camera: CameraModel, image: ImageConfig) -> tuple[CameraModel, float]:
    """The same camera in pixels of the network's image, and the first row with picture in it (rows above are padding).

    `project` of it gives `ImageTransform.to_network` of what `camera` projects to.
    """
    transform = ImageTransform.of(image, camera.width_px, camera.height_px)
    network_K_full = np.array(
        [
            [transform.scale_x, 0.0, 0.5 * transform.scale_x - 0.5],
            [0.0, transform.scale_y, 0.5 * transform.scale_y - 0.5 + transform.offset_y_px],
            [0.0, 0.0, 1.0],
        ]
    )
    moved = replace(
        camera,
        width_px=image.width_px,
        height_px=image.height_px,
        intrinsic=network_K_full @ camera.intrinsic,
    )
    return moved, float(max(0, transform.offset_y_px))


def project_points(lens: Tensor, reference_SE3_camera: Tensor, points_m: Tensor) -> tuple[Tensor, ...]:
    """Project points (B, M, 3) or (1, M, 3) in the ego frame into cameras (B, N, 17) at poses (B, N, 4, 4).

    Returns u and v in network pixels, whether the lens model defines them there, and the distance from the camera in
    its own units, (B, N, M) each; where not defined, u and v are anything.
    """
    linear, offset = inverse_affine(reference_SE3_camera)
    camera = linear @ points_m[:, None].transpose(-1, -2) + offset[..., None]  # (B, N, 3, M)
    x, y, z = camera.unbind(dim=2)
    norm = (x * x + y * y).add_(z * z).sqrt_()  # (B, N, M)
    column = lens[..., None]  # (B, N, 17, 1)
    plane_x, plane_y, is_defined = to_plane(x, y, z, norm, column)
    u = lens_column(column, "fx") * plane_x + lens_column(column, "skew") * plane_y + lens_column(column, "cx")
    v = lens_column(column, "fy") * plane_y + lens_column(column, "cy")
    return u, v, is_defined, norm


def inverse_affine(transform: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (..., 3, 3) and offset (..., 3) of the inverse of invertible affine maps (..., 4, 4).

    By cross products in double precision: `torch.linalg.inv` would wait for a GPU to say whether it worked.
    """
    linear, shift = transform[..., :3, :3].double(), transform[..., :3, 3].double()
    a, b, c = linear.unbind(dim=-1)
    ab, bc, ca = torch.linalg.cross(a, b), torch.linalg.cross(b, c), torch.linalg.cross(c, a)
    determinant = (a * bc).sum(dim=-1, keepdim=True)  # (..., 1)
    inverse = torch.stack([bc, ca, ab], dim=-2) / determinant[..., None]
    offset = -(inverse @ shift[..., None])[..., 0]
    return inverse.to(transform.dtype), offset.to(transform.dtype)


def to_plane(x: Tensor, y: Tensor, z: Tensor, norm: Tensor, lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distorted coordinates on the normalised image plane, (B, N, M) each, and where the lens model defines them.

    A pinhole is Mei's camera with xi = 0, and Brown's distortion is that of both; a Kannala-Brandt lens bends the
    angle from the axis by the same kind of polynomial that Brown bends the radius by.
    """
    kind, xi = lens_column(lens, "kind"), lens_column(lens, "xi")
    is_mei, is_fisheye = kind == _KIND[Projection.MEI], kind == _KIND[Projection.KANNALA_BRANDT]
    shrink = (z + xi * norm).reciprocal_()
    if _may_hold(is_fisheye):
        radius = torch.hypot(x, y).clamp_(min=1e-9)
        shrink = torch.where(is_fisheye, torch.atan2(radius, z) / radius, shrink)
    plane_x, plane_y = x * shrink, y * shrink
    square = (plane_x * plane_x).addcmul_(plane_y, plane_y)

    cone = -torch.minimum(xi, 1 / xi.clamp(min=1e-6)) + NEAREST_M  # Mei and Rives, ICRA 2007, eq. 4
    least = torch.where(is_mei | is_fisheye, 0.0, NEAREST_M)
    slope = torch.where(is_mei, cone, torch.where(is_fisheye, -2.0, 0.0))
    is_defined = (z > least + slope * norm) & (square < lens_column(lens, "limit") ** 2)
    if _may_hold(lens[:, :, _COLUMN["d0"] : _COLUMN["d7"] + 1] != 0):
        plane_x, plane_y = _distort(plane_x, plane_y, square, lens, is_fisheye)
    return plane_x, plane_y, is_defined


def _distort(x: Tensor, y: Tensor, square: Tensor, lens: Tensor, is_fisheye: Tensor) -> tuple[Tensor, Tensor]:
    """Bend plane coordinates (B, N, M); square: (B, N, M) of the radius, or of a fisheye's angle."""
    d = [lens_column(lens, f"d{i}") for i in range(8)]
    brown = (d[0], d[1], d[4], torch.zeros_like(d[0]))  # k1 k2 p1 p2 k3 k4 k5 k6
    above = [torch.where(is_fisheye, d[i], k) for i, k in enumerate(brown)]
    p1, p2, *below = (torch.where(is_fisheye, 0.0, d[i]) for i in (2, 3, 5, 6, 7))
    radial = _polynomial(above, square)
    if _may_hold(torch.stack(below) != 0):
        radial = radial / _polynomial(below, square)
    cross = 2 * x * y
    return (
        x * radial + p1 * cross + p2 * (square + 2 * x * x),
        y * radial + p1 * (square + 2 * y * y) + p2 * cross,
    )


def _polynomial(factors: list[Tensor], square: Tensor) -> Tensor:
    """1 + factors[0] square + factors[1] square^2 + ..."""
    value = factors[-1] * square
    for factor in reversed(factors[:-1]):
        value = (value + factor) * square
    return value + 1.0


def lens_column(lens: Tensor, name: str) -> Tensor:
    """One of `CAMERA_FIELDS`, (B, N, 1), of cameras (B, N, 17, 1)."""
    return lens[:, :, _COLUMN[name]]


def _may_hold(flags: Tensor) -> bool:
    """Whether a flag is set, as far as that can be asked without waiting for a GPU."""
    return flags.device.type != "cpu" or bool(flags.any())
