"""`sensor_msgs/CompressedImage` and `Image` to the compressed images that messages carry.

Raw images become PNG, which loses nothing; encodings as in `sensor_msgs/image_encodings.hpp`.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.sources.image_files import check_image

MAX_PIXELS = 2**27
_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """bits and channels of a pixel; to_bgr: code of OpenCV that turns it to blue-green-red, None where it is that."""

    channels: int
    to_bgr: int | None = None
    bits: int = 8


ENCODINGS = {
    "bgr8": Encoding(channels=3),
    "rgb8": Encoding(channels=3, to_bgr=cv2.COLOR_RGB2BGR),
    "bgra8": Encoding(channels=4, to_bgr=cv2.COLOR_BGRA2BGR),
    "rgba8": Encoding(channels=4, to_bgr=cv2.COLOR_RGBA2BGR),
    "mono8": Encoding(channels=1),
    "mono16": Encoding(channels=1, bits=16),
    "8UC1": Encoding(channels=1),
    "8UC3": Encoding(channels=3),
    "bayer_rggb8": Encoding(channels=1, to_bgr=cv2.COLOR_BayerRGGB2BGR),
    "bayer_bggr8": Encoding(channels=1, to_bgr=cv2.COLOR_BayerBGGR2BGR),
    "bayer_gbrg8": Encoding(channels=1, to_bgr=cv2.COLOR_BayerGBRG2BGR),
    "bayer_grbg8": Encoding(channels=1, to_bgr=cv2.COLOR_BayerGRBG2BGR),
    "bayer_rggb16": Encoding(channels=1, to_bgr=cv2.COLOR_BayerRGGB2BGR, bits=16),
    "bayer_bggr16": Encoding(channels=1, to_bgr=cv2.COLOR_BayerBGGR2BGR, bits=16),
    "bayer_gbrg16": Encoding(channels=1, to_bgr=cv2.COLOR_BayerGBRG2BGR, bits=16),
    "bayer_grbg16": Encoding(channels=1, to_bgr=cv2.COLOR_BayerGRBG2BGR, bits=16),
    "yuv422": Encoding(channels=2, to_bgr=cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": Encoding(channels=2, to_bgr=cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": Encoding(channels=2, to_bgr=cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": Encoding(channels=2, to_bgr=cv2.COLOR_YUV2BGR_YUY2),
}


def compressed_image(name: str, message: Any) -> bytes:
    """The JPEG or PNG in a `CompressedImage`, whole. Raises PayloadError, naming `name`."""
    if "compressedDepth" in message.format:
        raise PayloadError(f"{name}: a compressed depth image is no camera image")
    data = message.data.tobytes()
    check_image(name, data)
    return bytes(data)


def raw_image(name: str, message: Any) -> bytes:
    """An `Image` as PNG. Raises PayloadError where its encoding is not known or its pixels are not all there."""
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise PayloadError(f"{name}: encoding {message.encoding[:40]!r} is not one of {', '.join(ENCODINGS)}")
    pixels = _pixels(name, message, encoding)
    try:
        if encoding.to_bgr is not None:
            pixels = cv2.cvtColor(pixels, encoding.to_bgr)
        is_done, data = cv2.imencode(".png", pixels, _FAST_PNG)
    except cv2.error as error:
        raise PayloadError(f"{name}: the image cannot be encoded ({error})") from error
    if not is_done:
        raise PayloadError(f"{name}: the image cannot be encoded")
    return bytes(data.tobytes())


def _pixels(name: str, message: Any, encoding: Encoding) -> NDArray[Any]:
    """(H, W) or (H, W, C) of 8 bits, of an image whose rows may be padded."""
    width, height, row = int(message.width), int(message.height), int(message.step)
    size = encoding.bits // 8
    used = width * encoding.channels * size
    row = row or used
    data: NDArray[np.uint8] = message.data
    if not 0 < width * height <= MAX_PIXELS or row < used or (height - 1) * row + used > len(data):
        raise PayloadError(
            f"{name}: the image declares {width}x{height} pixels in rows of {row} bytes, but has {len(data)} bytes"
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, used), (row, 1), writeable=False)
    pixels: NDArray[Any] = np.ascontiguousarray(rows)
    if size == 2:
        wide = pixels.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16)
        pixels = (wide >> 8).astype(np.uint8)
    return pixels.reshape((height, width) if encoding.channels == 1 else (height, width, encoding.channels))
