"""Rectangles around boxes on the images of two frames, and pictures copied from one to the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.models.boxes import CENTER, LOG_SIZE
from perception.training.batch import TrainingBatch
from perception.training.projection import project


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rectangles:
    """Where J boxes are on N images of B frames.

    low_px, high_px: (B, N, J, 2) around the corners that are seen; infinite and empty where none is. is_whole,
    is_partly: (B, N, J), True where all corners are seen, or any. distance_m: (B, N, J), mean of the corners'.
    """

    low_px: Tensor
    high_px: Tensor
    is_whole: Tensor
    is_partly: Tensor
    distance_m: Tensor

    @classmethod
    def of(cls, batch: TrainingBatch, boxes: Tensor) -> "Rectangles":
        """Of boxes (B, J, 10) on the images of a batch; all of them, padding included."""
        seen = project(batch, corners_of(boxes).flatten(1, 2))
        u, v, is_seen, distance = (
            x.view(*x.shape[:2], -1, 8) for x in (seen.u_px, seen.v_px, seen.is_seen, seen.distance_m)
        )
        return cls(
            low_px=torch.stack([x.masked_fill(~is_seen, torch.inf).amin(dim=-1) for x in (u, v)], dim=-1),
            high_px=torch.stack([x.masked_fill(~is_seen, -torch.inf).amax(dim=-1) for x in (u, v)], dim=-1),
            is_whole=is_seen.all(dim=-1),
            is_partly=is_seen.any(dim=-1),
            distance_m=distance.mean(dim=-1),
        )

    def hidden_by(self, others: "Rectangles", is_asked: Tensor) -> Tensor:
        """(B, J), True where one of the other boxes (B, M) that `is_asked` is before this one on an image."""
        first, second = (self.low_px[:, :, :, None], others.low_px[:, :, None]), (self.high_px, others.high_px)
        meets = (first[0] < second[1][:, :, None]).all(dim=-1) & (first[1] < second[0][:, :, :, None]).all(dim=-1)
        is_nearer = others.distance_m[:, :, None] < self.distance_m[..., None]  # (B, N, J, M)
        return (meets & is_nearer & is_asked[:, None, None]).any(dim=-1).any(dim=1)


def corners_of(boxes: Tensor) -> Tensor:
    """Corners (B, J, 8, 3) of boxes (B, J, 10) in the ego frame."""
    number = torch.arange(8, device=boxes.device)
    sign = torch.stack([(number >> bit) & 1 for bit in range(3)], dim=-1) - 0.5  # (8, 3)
    x, y, z = (sign * boxes[..., None, LOG_SIZE].exp()).unbind(dim=-1)  # (B, J, 8) each
    sine, cosine = boxes[..., 6:7], boxes[..., 7:8]
    turned = torch.stack([x * cosine - y * sine, x * sine + y * cosine, z], dim=-1)
    return turned + boxes[..., None, CENTER]


def copy_patches(images: Tensor, donor: Tensor, here: Rectangles, there: Rectangles, is_copied: Tensor) -> Tensor:
    """Images (B, N, 3, H, W) with rectangles of the donor's images in them, scaled to fit, by the nearest pixel.

    is_copied: (B, J). Rectangles on one image must not meet: then a pixel's source is a sum over them, of products of
    a part that depends on its row and one that depends on its column.
    """
    height, width = images.shape[-2:]
    is_there = is_copied[:, None] & here.is_whole  # (B, N, J)
    v, is_row = _along(torch.arange(height, device=images.device), here, there, is_there, 1)  # (B, N, J, H)
    u, is_column = _along(torch.arange(width, device=images.device), here, there, is_there, 0)  # (B, N, J, W)
    source_v = (is_row * v).transpose(-1, -2) @ is_column  # (B, N, H, W)
    source_u = is_row.transpose(-1, -2) @ (is_column * u)
    is_inside = is_row.transpose(-1, -2) @ is_column > 0.5
    place = source_v.round().clamp_(0, height - 1) * width + source_u.round().clamp_(0, width - 1)
    index = place.long().flatten(2)[:, :, None].expand(-1, -1, images.shape[2], -1)  # (B, N, 3, H * W)
    copied = donor.flatten(3).gather(3, index).view_as(images)
    return torch.where(is_inside[:, :, None], copied, images)


def _along(pixel: Tensor, here: Rectangles, there: Rectangles, is_there: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """For pixels (X,) along an axis (0: u): their source (B, N, J, X) in each rectangle, and 1 where they are in it."""
    low, high = here.low_px[..., axis, None], here.high_px[..., axis, None]  # (B, N, J, 1)
    from_low, from_high = there.low_px[..., axis, None], there.high_px[..., axis, None]
    share = (pixel - low) / (high - low)
    is_inside = (share >= 0) & (share <= 1) & is_there[..., None]
    source = torch.where(is_inside, from_low + share * (from_high - from_low), 0.0)
    return source, is_inside.to(source.dtype)
