"""Images on the device: decoded there or on the host, then resized as `decode_image` does it."""

import importlib.util
from collections import OrderedDict
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.config.schema import ImageConfig
from perception.core.cameras import CameraModel
from perception.core.errors import PayloadError
from perception.models.backends.transfer import array_to_device
from perception.models.preprocess import ImageTransform, decode_reduced, require_size

F32 = NDArray[np.float32]

JPEG_START: Final = b"\xff\xd8"
CACHED_SIZES = 64


class DeviceImages:
    """Compressed images to (3, H, W) uint8 RGB on `device`, within one level (of 255) of `decode_image` where both
    decode alike.

    On a GPU with torchvision, JPEG is decoded there in full size (nvJPEG); elsewhere and for PNG the host decodes, a
    JPEG reduced as far as the network does not see. The two decoders differ by a level or two on smooth parts and by
    more on edges.
    """

    def __init__(self, image: ImageConfig, device: torch.device) -> None:
        self._image, self._device = image, device
        self._matrices: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = OrderedDict()
        self._io: Any = None
        if device.type == "cuda" and importlib.util.find_spec("torchvision"):
            import torchvision.io

            self._io = torchvision.io

    def load(self, data: bytes, camera: CameraModel) -> Tensor:
        """One image on the device. Raises PayloadError as `decode_image` does."""
        require_size(data, camera.width_px, camera.height_px)
        if self._io is not None and data.startswith(JPEG_START):
            return self.resize(self._decode_there(data), camera)
        decoded = decode_reduced(data, self._image, camera.width_px)
        there = array_to_device(decoded, self._device)  # (h, w, 3) BGR
        return self.resize(there.permute(2, 0, 1).flip(0), camera)

    def resize(self, decoded: Tensor, camera: CameraModel) -> Tensor:
        """Decoded pixels (3, h, w) uint8 RGB of a camera, at any scale, to the network's (3, H, W) uint8.

        Averages over areas, or interpolates where the image grows, as two matrix products.
        """
        rows, columns = self._matrices_for(decoded.shape[1], decoded.shape[2], camera)
        resized = rows @ decoded.float() @ columns  # (3, H, W)
        return resized.round_().clamp_(0, 255).to(torch.uint8)

    def _decode_there(self, data: bytes) -> Tensor:
        coded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            decoded: Tensor = self._io.decode_jpeg(coded, mode=self._io.ImageReadMode.RGB, device=self._device)
        except RuntimeError as error:
            raise PayloadError(f"image of {len(data)} bytes cannot be decoded: {error}") from None
        return decoded

    def _matrices_for(self, height: int, width: int, camera: CameraModel) -> tuple[Tensor, Tensor]:
        """Matrices (H, h) and (w, W) from decoded rows and columns to the network's; made once for each size."""
        key = (height, width, camera.width_px, camera.height_px)
        if key in self._matrices:
            self._matrices.move_to_end(key)
            return self._matrices[key]
        transform = ImageTransform.of(self._image, camera.width_px, camera.height_px)
        weights = area_weights if width > self._image.width_px else linear_weights
        resized = weights(height, transform.resized_height_px)  # (resized height, h)
        rows = np.zeros((self._image.height_px, height), dtype=np.float32)
        kept = min(self._image.height_px, transform.resized_height_px)
        rows[self._image.height_px - kept :] = resized[transform.resized_height_px - kept :]
        columns = np.ascontiguousarray(weights(width, self._image.width_px).T)
        pair = (array_to_device(rows, self._device), array_to_device(columns, self._device))
        self._matrices[key] = pair
        if len(self._matrices) > CACHED_SIZES:
            self._matrices.popitem(last=False)
        return pair


def area_weights(source: int, target: int) -> F32:
    """(target, source): how much each source pixel counts in each target pixel, by the area they share (INTER_AREA)."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    start, end = edges[:-1, None], edges[1:, None]
    shared = np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0.0, None)
    weights: F32 = (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def linear_weights(source: int, target: int) -> F32:
    """(target, source): linear interpolation between pixel centres, the border repeated (INTER_LINEAR)."""
    place = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0, source - 1)
    lower = np.minimum(place.astype(np.int64), max(source - 2, 0))
    share = (place - lower).astype(np.float32)
    weights = np.zeros((target, source), dtype=np.float32)
    every = np.arange(target)
    weights[every, lower] += 1 - share
    weights[every, np.minimum(lower + 1, source - 1)] += share
    return weights
