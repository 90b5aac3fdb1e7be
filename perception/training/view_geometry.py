"""Where fusion looks, for a training batch: what `perception/models/geometry.py` says of one bundle, on the device.

Augmented batches included: a world that was mirrored or scaled, images that were zoomed or mirrored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.config.schema import ModelConfig
from perception.models.blocks import cell_centers
from perception.models.encoders.camera import STRIDE
from perception.training.batch import RAY_STRIDE, TrainingBatch
from perception.training.projection import project

_FIRST_RAY_PX = (RAY_STRIDE - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewTensors:
    """Geometry of B bundles; shapes and meaning as in `FusionInputs`."""

    camera_rays: Tensor
    camera_origin_m: Tensor
    lift_camera: Tensor
    lift_uv: Tensor
    lift_valid: Tensor
    lift_depth_m: Tensor


def view_geometry(batch: TrainingBatch, model: ModelConfig) -> ViewTensors:
    """Rays of all image tokens, and the samples of the camera-to-BEV lift. Only present cameras are sampled."""
    points = lift_points(model, batch.images.device)
    # On a CPU one frame at a time stays in its cache.
    is_cpu = points.device.type == "cpu"
    pieces = [batch.part(slice(i, i + 1)) for i in range(len(batch))] if is_cpu else [batch]
    lifts = [_lift(piece, points, model) for piece in pieces]
    camera, uv, is_valid, depth = (torch.cat(parts) for parts in zip(*lifts, strict=True))
    return ViewTensors(
        camera_rays=token_rays(batch),
        camera_origin_m=batch.reference_SE3_camera[..., :3, 3],
        lift_camera=camera,
        lift_uv=uv,
        lift_valid=is_valid,
        lift_depth_m=depth,
    )


def lift_points(model: ModelConfig, device: torch.device) -> Tensor:
    """Points (P, 3) in the ego frame: every cell of the bird's-eye view at every height."""
    with device:  # made there: a copy would wait for a GPU
        xy = cell_centers(model.bev_cells) * model.range_m  # (G * G, 2)
        heights = torch.stack([torch.full((), height) for height in model.lift_heights_m])
    xy, z = xy[:, None].expand(-1, len(heights), -1), heights[:, None].expand(len(xy), -1, 1)
    return torch.cat([xy, z], dim=-1).flatten(0, 1)


def token_rays(batch: TrainingBatch) -> Tensor:
    """Unit rays (B, N, T, 3) in the ego frame through the middle of each image token, between those of the ray map."""
    rows, columns = batch.images.shape[-2:]
    device = batch.images.device
    v, u = torch.meshgrid(
        torch.arange((STRIDE - 1) / 2, rows, STRIDE, device=device),
        torch.arange((STRIDE - 1) / 2, columns, STRIDE, device=device),
        indexing="ij",
    )
    tokens = torch.stack([u.flatten(), v.flatten()])  # (2, T) pixels of the image
    turn, shift = batch.image_from_network[..., :2], batch.image_from_network[..., 2:]
    u, v = (_inverse_2x2(turn) @ (tokens - shift)).unbind(dim=2)  # (B, N, T) pixels of the camera model
    rays = _between(batch.ray_map, (u - _FIRST_RAY_PX) / RAY_STRIDE, (v - _FIRST_RAY_PX) / RAY_STRIDE)
    return normalize(rays @ batch.reference_SE3_camera[..., :3, :3].transpose(-1, -2), dim=-1)


def _between(ray_map: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Rays (B, N, T, 3) at places (B, N, T) of a ray map (B, N, h, w, 3): linear, and so beyond its border too."""
    height, width = ray_map.shape[2:4]
    left, top = column.floor().clamp_(0, width - 2), row.floor().clamp_(0, height - 2)
    across, down = (column - left)[..., None], (row - top)[..., None]
    table, first = ray_map.flatten(2, 3), (top * width + left).long()  # (B, N, h * w, 3), (B, N, T)
    corners = (table.gather(2, (first + step)[..., None].expand(-1, -1, -1, 3)) for step in (0, 1, width, width + 1))
    a, b, c, d = corners
    return torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), down)


def _inverse_2x2(matrix: Tensor) -> Tensor:
    """Inverse of (..., 2, 2) without asking a GPU whether there is one."""
    a, b, c, d = matrix.flatten(-2).unbind(dim=-1)
    adjugate = torch.stack([d, -b, -c, a], dim=-1).view(matrix.shape)
    return adjugate / (a * d - b * c)[..., None, None]


def _lift(batch: TrainingBatch, points_m: Tensor, model: ModelConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cameras (B, P, K), where on them (B, P, K, 2) in tokens, whether one sees the point, and distances, (B, P, K)."""
    shape = (len(batch), len(points_m), model.lift_cameras)
    device = points_m.device
    camera = torch.zeros(shape, dtype=torch.int64, device=device)
    uv, depth = torch.zeros(*shape, 2, device=device), torch.zeros(shape, device=device)
    is_valid = torch.zeros(shape, dtype=torch.bool, device=device)
    cameras = batch.camera_present.shape[1]
    if cameras == 0:
        return camera, uv, is_valid, depth
    seen = project(batch, points_m[None])
    # Distance from the middle, the same measure as at inference; infinite where unseen.
    off_u = (seen.u_px + 0.5).div_(model.image.width_px).sub_(0.5).abs_()  # (B, N, P)
    off_v = (seen.v_px + 0.5).div_(model.image.height_px).sub_(0.5).abs_()
    rank = torch.maximum(off_u, off_v).masked_fill_(~seen.is_seen, torch.inf)
    for k in range(min(cameras, model.lift_cameras)):
        least, best = rank.min(dim=1, keepdim=True)  # (B, 1, P)
        found = least[:, 0] < torch.inf  # (B, P)
        camera[..., k], is_valid[..., k] = best[:, 0], found
        u, v, distance = (
            x.gather(1, best)[:, 0].masked_fill(~found, 0.0) for x in (seen.u_px, seen.v_px, seen.distance_m)
        )
        uv[..., k, 0], uv[..., k, 1] = (u + 0.5) / STRIDE - 0.5, (v + 0.5) / STRIDE - 0.5
        depth[..., k] = distance
        rank.scatter_(1, best, torch.inf)
    return camera, uv, is_valid, depth
