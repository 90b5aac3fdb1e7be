"""Images: what is refused, and where a pixel of the full image ends up."""

import struct

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.config.schema import ImageConfig
from perception.core.errors import PayloadError
from perception.models.image_header import image_size
from perception.models.preprocess import ImageTransform, decode_image

TARGET = ImageConfig()
SIZES = [(1920, 1216), (1600, 900), (1242, 375), (1280, 704), (352, 128), (320, 200)]


def encoded(image: NDArray[np.uint8], suffix: str = ".jpg", quality: int = 95) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    is_done, buffer = cv2.imencode(suffix, image, options)
    assert is_done
    return bytes(buffer.tobytes())


def scenery(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth colours, so that any two ways of shrinking agree."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    planes = [np.tile(x, (height, 1)), np.tile(y[:, None], (1, width)), np.full((height, width), 90.0)]
    return np.stack(planes, axis=2).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_spot_lands_where_the_transform_says(width: int, height: int, suffix: str) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    spot = (width * 3 // 5, height * 3 // 4)
    radius = max(3, width // 60)
    cv2.circle(image, spot, radius, (0, 0, 255), -1)  # red in OpenCV's order
    network = decode_image(encoded(image, suffix), TARGET, width, height)
    assert network.shape == (3, TARGET.height_px, TARGET.width_px)
    assert network.dtype == np.uint8
    red = network[0].astype(float)
    assert red.max() > 150
    assert network[2].max() < 60
    rows, columns = np.indices(red.shape)
    found = np.array([(columns * red).sum(), (rows * red).sum()]) / red.sum()
    expected = ImageTransform.of(TARGET, width, height).to_network(np.array([spot], dtype=np.float64))[0]
    np.testing.assert_allclose(found, expected, atol=0.35)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_transform_can_be_undone(width: int, height: int) -> None:
    transform = ImageTransform.of(TARGET, width, height)
    pixels = np.array([[0.0, 0.0], [width - 1.0, height - 1.0], [12.5, 77.25]])
    np.testing.assert_allclose(transform.to_full(transform.to_network(pixels)), pixels, atol=1e-9)
    bottom = transform.to_network(np.array([[width - 0.5, height - 0.5]]))[0]
    np.testing.assert_allclose(bottom, [TARGET.width_px - 0.5, TARGET.height_px - 0.5], atol=1e-9)


@pytest.mark.parametrize(("width", "height"), [(1600, 900), (1920, 1216), (1280, 704)])
def test_reduced_decoding_sees_what_full_decoding_sees(width: int, height: int) -> None:
    image = scenery(width, height)
    network = decode_image(encoded(image), TARGET, width, height)
    transform = ImageTransform.of(TARGET, width, height)
    full = cv2.resize(image, (TARGET.width_px, transform.resized_height_px), interpolation=cv2.INTER_AREA)
    expected = full[-TARGET.height_px :, :, ::-1].transpose(2, 0, 1)
    assert np.abs(network.astype(int) - expected.astype(int)).max() <= 4


def test_a_wide_image_gets_black_rows_at_the_top() -> None:
    network = decode_image(encoded(np.full((375, 1242, 3), 200, dtype=np.uint8)), TARGET, 1242, 375)
    assert network[:, :22].max() == 0
    assert network[:, 22:].min() > 190


def test_every_cut_of_a_jpeg_is_refused() -> None:
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    assert image_size(data) == (96, 64)
    for length in [*range(40), *range(40, len(data), 97), len(data) - 2, len(data) - 1]:
        with pytest.raises(PayloadError):
            decode_image(data[:length], TARGET, 96, 64)


def test_every_cut_of_a_png_is_refused() -> None:
    data = encoded(scenery(96, 64), ".png")
    for length in [*range(len(data) - 12), len(data) - 9]:
        with pytest.raises(PayloadError):
            decode_image(data[:length], TARGET, 96, 64)


def test_the_end_marker_of_a_thumbnail_is_not_the_end_of_the_image() -> None:
    thumbnail = encoded(scenery(16, 16))
    data = encoded(scenery(640, 480))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert image_size(whole) == (640, 480)
    decode_image(whole, TARGET, 640, 480)
    with pytest.raises(PayloadError, match="cut off"):
        decode_image(whole[: len(whole) // 2], TARGET, 640, 480)


def test_bytes_after_the_end_are_no_harm() -> None:
    data = encoded(scenery(640, 480))
    padded = decode_image(data + bytes(500), TARGET, 640, 480)
    np.testing.assert_array_equal(padded, decode_image(data, TARGET, 640, 480))


def test_another_size_than_the_calibration_is_refused() -> None:
    with pytest.raises(PayloadError, match="800x450 but its calibration is for 1600x900"):
        decode_image(encoded(scenery(800, 450)), TARGET, 1600, 900)


@pytest.mark.parametrize("data", [b"", b"GIF89a", bytes(1000), b"\xff\xd8", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_image(data, TARGET, 640, 480)


def test_a_damaged_header_is_refused() -> None:
    data = bytearray(encoded(scenery(640, 480)))
    data[2] = 0x00
    with pytest.raises(PayloadError, match="damaged"):
        decode_image(bytes(data), TARGET, 640, 480)
