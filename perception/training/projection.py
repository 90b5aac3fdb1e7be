"""Points of a training batch onto its images: all camera models at once, on whatever device the batch is.

The four models are one formula with other numbers, so that a batch may mix rigs and nothing asks a GPU what it holds.
"""

from dataclasses import dataclass

from torch import Tensor

from perception.models.lenses import inverse_affine as inverse_affine
from perception.models.lenses import lens_column, project_points
from perception.training.batch import TrainingBatch


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
    lens = batch.cameras[..., None]  # (B, N, 17, 1)
    u, v, is_defined, norm = project_points(batch.cameras, batch.reference_SE3_camera, points_m)

    rows, columns = batch.images.shape[-2:]
    is_seen = is_defined & batch.camera_present[..., None]
    is_seen &= (u >= -0.5) & (u < columns - 0.5) & (v >= lens_column(lens, "top_px") - 0.5) & (v < rows - 0.5)
    moved = batch.image_from_network[..., None]  # (B, N, 2, 3, 1)
    u, v = (moved[:, :, row, 0] * u + moved[:, :, row, 1] * v + moved[:, :, row, 2] for row in (0, 1))
    is_seen &= (u >= -0.5) & (u < columns - 0.5) & (v >= -0.5) & (v < rows - 0.5)
    scale = batch.reference_SE3_camera[..., :3, 0].norm(dim=-1, keepdim=True)  # (B, N, 1)
    return Projected(u_px=u, v_px=v, is_seen=is_seen, distance_m=norm * scale)
