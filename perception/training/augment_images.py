"""Other images: zoomed, cropped, mirrored and recoloured, with their projections.

A mirrored world comes with mirrored images: a car on the other side of the road looks as it would there, and text is
all that reads wrong.
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from perception.config.training import AugmentConfig
from perception.training.batch import CAMERA_FIELDS, TrainingBatch
from perception.training.draws import uniform

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in what the eye takes for brightness (ITU-R BT.601)."""

BRIGHTEST = 255.0
OFFSET = 128.0
"""Grey levels that a colour strength of 1 brightens or darkens an image by."""

_TOP_PX = CAMERA_FIELDS.index("top_px")


def augment_images(
    batch: TrainingBatch, config: AugmentConfig, is_mirrored: Tensor, generator: Generator
) -> TrainingBatch:
    """A batch with float images in 0..255. Padding stays black, and so does what a zoom out shows beyond the border.

    is_mirrored: (B,) bool, samples whose world is mirrored.
    """
    batch_size, cameras = batch.camera_present.shape
    if cameras == 0:
        return batch
    device = batch.images.device
    low, high = config.image_scale
    zoom = uniform(generator, device, batch_size, cameras, low=low, high=high)
    middle = uniform(generator, device, batch_size, cameras, 2, low=-1.0, high=1.0)  # of the image is -1..1
    is_flipped = is_mirrored[:, None] ^ (uniform(generator, device, batch_size, cameras) < config.image_flip)
    is_moved = (low, high) != (1.0, 1.0) or config.flip > 0 or config.image_flip > 0
    color = _color_matrices(batch, config.color, generator) if config.color else None
    # On a CPU one frame at a time stays in its cache.
    pieces = [slice(i, i + 1) for i in range(batch_size)] if device.type == "cpu" else [slice(None)]
    images = []
    for piece in pieces:
        image = batch.images[piece]
        if color is not None:
            image = _recolor(image, color[0][piece], color[1][piece], batch.cameras[piece, :, _TOP_PX])
        if is_moved:
            image = _resample(image, zoom[piece], middle[piece], is_flipped[piece])
        images.append(image)
    step = _pixel_map(zoom, middle, is_flipped, batch.images.shape[-2:])  # (B, N, 2, 3)
    moved = step[..., :2] @ batch.image_from_network
    moved[..., 2] += step[..., 2]
    return replace(batch, images=torch.cat(images), image_from_network=moved if is_moved else batch.image_from_network)


def _color_matrices(batch: TrainingBatch, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """For each image how colours mix (B, N, 3, 3) and what is added (B, N, 3), drawn within `strength`.

    Saturation and a mixture of channels that leaves grey grey (for hue), then contrast about the mean, then brightness.
    """
    shape, device = batch.camera_present.shape, batch.images.device
    draw = uniform(generator, device, *shape, 3, low=-strength, high=strength)
    saturation, contrast, brightness = (1 + draw[..., :1]), (1 + draw[..., 1:2]), draw[..., 2:] * OFFSET  # (B, N, 1)
    eye = torch.eye(3, device=device)
    grey = torch.stack([torch.full((3,), weight, device=device) for weight in LUMA], dim=-1)  # (3, 3)
    mixing = uniform(generator, device, *shape, 3, 3, low=-strength / 2, high=strength / 2)
    mixing = eye + mixing - mixing.mean(dim=-1, keepdim=True)  # rows sum to 1
    mixing = mixing @ torch.lerp(grey, eye, saturation[..., None])  # (B, N, 3, 3)
    mean = mixing @ batch.images[..., ::4, ::4].float().mean(dim=(-2, -1))[..., None]  # (B, N, 3, 1)
    offset = (1 - contrast) * mean[..., 0] + brightness
    return mixing * contrast[..., None], offset


def _recolor(images: Tensor, mixing: Tensor, offset: Tensor, top_px: Tensor) -> Tensor:
    """Float images (B, N, 3, H, W) with mixed channels; rows above top_px (B, N) are black."""
    rows = images.shape[-2]
    flat = images.to(offset.dtype).flatten(0, 1).flatten(2)  # (B * N, 3, H * W)
    mixed = torch.baddbmm(offset.flatten(0, 1)[..., None], mixing.flatten(0, 1), flat).clamp_(0.0, BRIGHTEST)
    is_picture = torch.arange(rows, device=images.device) >= top_px[..., None] - 0.5  # (B, N, H)
    return mixed.view(images.shape).mul_(is_picture[:, :, None, :, None])


def _resample(images: Tensor, zoom: Tensor, middle: Tensor, is_flipped: Tensor) -> Tensor:
    """Images (B, N, 3, H, W) zoomed (B, N) about `middle` (B, N, 2), in -1..1 of the image, then mirrored (B, N)."""
    height, width = images.shape[-2:]
    zoom, middle, sign = zoom.flatten(), middle.flatten(0, 1), 1.0 - 2.0 * is_flipped.flatten()
    flat = images.flatten(0, 1).to(zoom.dtype)  # (B * N, 3, H, W)
    u = (_line(width, flat) * sign[:, None] - middle[:, :1]) / zoom[:, None] + middle[:, :1]  # (B * N, W)
    v = (_line(height, flat) - middle[:, 1:]) / zoom[:, None] + middle[:, 1:]  # (B * N, H)
    grid = torch.stack([u[:, None].expand(-1, height, -1), v[:, :, None].expand(-1, -1, width)], dim=-1)
    return functional.grid_sample(flat, grid, align_corners=False).view(images.shape)


def _line(pixels: int, like: Tensor) -> Tensor:
    """Centres of pixels in -1..1 of the image."""
    return (torch.arange(pixels, dtype=like.dtype, device=like.device) + 0.5) * (2 / pixels) - 1


def _pixel_map(zoom: Tensor, middle: Tensor, is_flipped: Tensor, size: torch.Size) -> Tensor:
    """Pixels before to pixels after what `_resample` does, (B, N, 2, 3)."""
    rows, columns = size
    sign, zero = 1.0 - 2.0 * is_flipped, torch.zeros_like(zoom)
    u = ((middle[..., 0] + 1) * columns - 1) / 2
    v = ((middle[..., 1] + 1) * rows - 1) / 2
    shift_u = (1 - zoom) * u
    shift_u = torch.where(is_flipped, columns - 1 - shift_u, shift_u)
    return torch.stack([sign * zoom, zero, shift_u, zero, zoom, (1 - zoom) * v], dim=-1).view(*zoom.shape, 2, 3)
