"""Points of a training batch onto its images: all camera models at once, on whatever device the batch is.

The four models are one formula with other numbers, so that a batch may mix rigs and nothing asks a GPU what it holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.core.cameras import Projection
from perception.training.batch import CAMERA_FIELDS, TrainingBatch

_KIND = {projection: place for place, projection in enumerate(Projection)}
_COLUMN = {name: place for place, name in enumerate(CAMERA_FIELDS)}

NEAREST_M = 1e-3
"""As in `CameraModel.project`: least depth of a pinhole's points, and distance kept from the limit of Mei's cone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projected:
    """M points in N cameras of B frames, (B, N, M) each.

    u_px, v_px: pixels of `TrainingBatch.images`, augmentation included; anything (not finite, even) where not seen.
    is_seen: True where a present camera has picture there. distance_m: from the camera, in metres of the ego frame.
    """

    u_px: Tensor
    v_px: Tensor
    is_seen: Tensor
    distance_m: Tensor


def project(batch: TrainingBatch, points_m: Tensor) -> Projected:
    """Project points (B, M, 3) or (1, M, 3) in the ego frame into every camera of the batch."""
    linear, offset = inverse_affine(batch.reference_SE3_camera)
    camera = linear @ points_m[:, None].transpose(-1, -2) + offset[..., None]  # (B, N, 3, M)
    x, y, z = camera.unbind(dim=2)
    norm = (x * x + y * y).add_(z * z).sqrt_()  # (B, N, M)
    lens = batch.cameras[..., None]  # (B, N, 17, 1)
    plane_x, plane_y, is_defined = _to_plane(x, y, z, norm, lens)
    u = _take(lens, "fx") * plane_x + _take(lens, "skew") * plane_y + _take(lens, "cx")
    v = _take(lens, "fy") * plane_y + _take(lens, "cy")

    rows, columns = batch.images.shape[-2:]
    is_seen = is_defined & batch.camera_present[..., None]
    is_seen &= (u >= -0.5) & (u < columns - 0.5) & (v >= _take(lens, "top_px") - 0.5) & (v < rows - 0.5)
    moved = batch.image_from_network[..., None]  # (B, N, 2, 3, 1)
    u, v = (moved[:, :, row, 0] * u + moved[:, :, row, 1] * v + moved[:, :, row, 2] for row in (0, 1))
    is_seen &= (u >= -0.5) & (u < columns - 0.5) & (v >= -0.5) & (v < rows - 0.5)
    scale = batch.reference_SE3_camera[..., :3, 0].norm(dim=-1, keepdim=True)  # (B, N, 1)
    return Projected(u_px=u, v_px=v, is_seen=is_seen, distance_m=norm * scale)


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


def _to_plane(x: Tensor, y: Tensor, z: Tensor, norm: Tensor, lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distorted coordinates on the normalised image plane, (B, N, M) each, and where the lens model defines them.

    A pinhole is Mei's camera with xi = 0, and Brown's distortion is that of both; a Kannala-Brandt lens bends the
    angle from the axis by the same kind of polynomial that Brown bends the radius by.
    """
    kind, xi = _take(lens, "kind"), _take(lens, "xi")
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
    is_defined = (z > least + slope * norm) & (square < _take(lens, "limit") ** 2)
    if _may_hold(lens[:, :, _COLUMN["d0"] : _COLUMN["d7"] + 1] != 0):
        plane_x, plane_y = _distort(plane_x, plane_y, square, lens, is_fisheye)
    return plane_x, plane_y, is_defined


def _distort(x: Tensor, y: Tensor, square: Tensor, lens: Tensor, is_fisheye: Tensor) -> tuple[Tensor, Tensor]:
    """Bend plane coordinates (B, N, M); square: (B, N, M) of the radius, or of a fisheye's angle."""
    d = [_take(lens, f"d{i}") for i in range(8)]
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


def _take(lens: Tensor, name: str) -> Tensor:
    return lens[:, :, _COLUMN[name]]


def _may_hold(flags: Tensor) -> bool:
    """Whether a flag is set, as far as that can be asked without waiting for a GPU."""
    return flags.device.type != "cpu" or bool(flags.any())
