"""From light to the bytes of a camera: exposure, tone curve, glare, noise, rain on its way."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from sim.weather import Weather

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_CODES: Final = 4096
_BRIGHTEST: Final = 16.0
_NOISE_SPARE: Final = 1 << 16


class Film:
    """One camera's way from radiance to 8-bit pixels."""

    def __init__(self, shape: tuple[int, int], weather: Weather, exposure: float, rng: np.random.Generator) -> None:
        self._shape = shape
        self._exposure = exposure
        self._is_dark = weather.is_dark
        self._curve = _tone_curve()
        # Amplified light brings amplified noise: a little by day, grain by night.
        deviation = 1.1 + 0.75 * np.log2(max(exposure, 1.0))
        bank = rng.standard_normal(shape[0] * shape[1] * 3 + _NOISE_SPARE, dtype=np.float32)
        self._noise = np.round(bank * deviation).astype(np.int16)
        self._rain = [_streaks(shape, weather.rain_mm_per_h, rng) for _ in range(3)] if weather.is_wet else []

    def develop(self, light: F32, rng: np.random.Generator) -> U8:
        """Image (H, W, 3) uint8 blue, green, red of radiance (H, W, 3)."""
        # Meter the scene itself, but stay near what the weather suggests.
        meter = float(np.minimum(light[::4, ::4], 2.0).mean()) * self._exposure
        gain = self._exposure * float(np.clip(0.42 / max(meter, 1e-3), 0.75, 1.6))
        light = light * np.float32(gain)
        if self._is_dark:
            light += _glare(light)
        code = np.sqrt(np.minimum(light, np.float32(_BRIGHTEST)))
        code *= np.float32((_CODES - 1) / _BRIGHTEST**0.5)
        image = self._curve[code.astype(np.uint16)]
        if self._rain:
            streaks = cv2.flip(self._rain[int(rng.integers(len(self._rain)))], int(rng.integers(-1, 2)))
            image = np.asarray(cv2.add(image, streaks), dtype=np.uint8)
        start = int(rng.integers(_NOISE_SPARE))
        noise = self._noise[start : start + image.size].reshape(image.shape)
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), dtype=np.uint8)


def encode_jpeg(image: U8, quality: int) -> bytes:
    """JPEG bytes of an image (H, W, 3) uint8 blue, green, red."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _tone_curve() -> U8:
    """8-bit sRGB by code: a filmic shoulder (Narkowicz's fit of the ACES curve, 2015), then the sRGB curve."""
    light = (np.arange(_CODES) / (_CODES - 1)) ** 2 * _BRIGHTEST * 0.72
    film = np.clip(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 0, 1)
    srgb = np.where(film <= 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)
    return np.round(srgb * 255).astype(np.uint8)


def _glare(light: F32) -> F32:
    """Light of bright lamps spread around them by the lens."""
    bright = np.maximum(light - np.float32(1.6), 0)
    height, width = light.shape[:2]
    small = cv2.resize(bright, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), max(1.0, width / 120)) * 0.22
    wide += cv2.GaussianBlur(small, (0, 0), max(1.0, width / 30)) * 0.10
    return np.asarray(cv2.resize(wide, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _streaks(shape: tuple[int, int], rain_mm_per_h: float, rng: np.random.Generator) -> U8:
    """Falling drops, drawn out by the shutter: a layer (H, W, 3) uint8 to add to an image."""
    height, width = shape
    layer = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(6 * rain_mm_per_h**0.7)):
        x, y = rng.uniform(-0.05, 1.05) * width, rng.uniform(-0.1, 1) * height
        size = rng.uniform(0.02, 0.09) * height
        end = (round(x + 0.12 * size), round(y + size))
        cv2.line(layer, (round(x), round(y)), end, int(rng.uniform(8, 26)), max(1, height // 400), cv2.LINE_AA)
    return np.repeat(cv2.GaussianBlur(layer, (0, 0), max(0.5, height / 900))[:, :, None], 3, axis=2)
