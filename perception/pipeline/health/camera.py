"""Whether a camera still sees: repeated, black, white or blurred images, and patches that no longer change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.faults import FaultKind
from perception.core.messages import CameraFrame
from perception.models.image_header import image_size
from perception.pipeline.health.evidence import Evidence

F32 = NDArray[np.float32]

MIN_WIDTH_PX: Final = 160
"""Images are decoded at the smallest of 1, 1/2, 1/4, 1/8 that is not narrower: about what the network sees, so that
blur below it does not matter."""
DARK_LEVEL: Final = 12
"""Of 255: where 99 % of the pixels are darker, there is not even a lamp. At night the simulator's darkest view reaches
29, aiMotive's 99."""
SATURATED_LEVEL: Final = 250
SATURATED_SHARE: Final = 0.5
"""Of the pixels; sun, sky and lamps fill up to a sixth (KITTI)."""
SHARPNESS: Final = 0.7
"""Detail of one pixel over detail of a few. Sharp images have 0.96 to 1.8, by day, night, rain and fog alike, since
contrast cancels out."""
MIN_DETAIL: Final = 0.25
"""Mean grey levels of detail below which sharpness means nothing."""

GRID: Final = (8, 16)
"""Rows and columns of the patches that are watched for blockage."""
MIN_SPEED_MPS: Final = 2.0
"""Slower, and nothing changes in any patch."""
LOST_DETAIL: Final = 0.35
LOST_CHANGE: Final = 1.0
"""A patch is covered where its detail is below this share of what it was, and it does not change more than it did. Dirt
of nine tenths' opacity leaves a sixth of the detail (what else shows a plain wall keeps more), and of the change up to
all: what lies around changes the exposure."""
SMOOTHING: Final = 0.4
"""Share of each new look in a patch's detail: one look at a plain surface is no loss."""
UNHURT: Final = 0.75
"""Fog, dusk or a slower car take from all patches: as much as from the patch at this share of the ranking is nobody's
own loss. More than half may be covered."""
USUAL_DETAIL: Final = 1.2
USUAL_CHANGE: Final = 1.5
"""Grey levels; a patch with less (sky, smooth road) shows nothing that could get lost."""
BLOCKED_PATCHES: Final = 20
"""Patches in one piece, of 128: a sixth of the image. Smaller pieces are lost for a while where a car turns."""
WARM_UP_LOOKS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A small grey image and what all checks want of it, made once.

    grey: (H, W) float32 grey levels. fine: the same without detail of one pixel. detail: how much of that there is.
    """

    grey: F32
    fine: F32
    detail: F32

    @classmethod
    def at(cls, grey: F32) -> "Look":
        fine = np.asarray(cv2.blur(grey, (3, 3)), dtype=np.float32)
        return cls(grey, fine, np.asarray(cv2.absdiff(grey, fine), dtype=np.float32))


class CameraChecks:
    """Looks at each image of one camera; decodes every `stride`-th, small and grey."""

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._last: bytes | None = None
        self._count = 0
        self._is_repeated = self._is_flat = False
        self._patches = PatchWatch()

    def check(self, frame: CameraFrame, speed_mps: float) -> Iterator[Evidence]:
        """Evidence from one image. speed_mps: of the ego; patches say nothing about a car that stands."""
        is_same, self._last = frame.data == self._last, frame.data
        is_due = self._count % self._stride == 0 or (is_same and not self._is_repeated)
        self._count, self._is_repeated = self._count + 1, is_same
        if not is_due:
            yield from self._check_frozen(is_same, frame)
            return
        try:
            grey = decode_small(frame.data)
        except PayloadError as error:
            yield Evidence(FaultKind.UNREADABLE, is_bad=True, detail=str(error))
            return
        yield Evidence(FaultKind.UNREADABLE, is_bad=False)
        look = Look.at(grey)
        light = list(check_light(look))
        self._is_flat = any(one.is_bad for one in light if one.kind is not FaultKind.BLURRED)
        yield from light
        yield from self._check_frozen(is_same, frame)
        if not is_same and speed_mps > MIN_SPEED_MPS:
            lost = self._patches.look(look)
            share = lost / (GRID[0] * GRID[1])
            yield Evidence(FaultKind.BLOCKED, lost >= BLOCKED_PATCHES, f"{share:.0%} of the image no longer changes")

    def _check_frozen(self, is_same: bool, frame: CameraFrame) -> Iterator[Evidence]:
        # Noise changes some byte of every image, unless all of it is black or white: that is a fault of its own.
        is_frozen = is_same and not self._is_flat
        yield Evidence(FaultKind.FROZEN, is_frozen, f"the same {len(frame.data)} bytes again")


class PatchWatch:
    """Finds patches of an image that lost both their detail and their change: dirt sits still on the lens.

    What was covered from the start is not found, nor dirt that grows over minutes: either is usual by then.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._level: F32 | None = None
        self._usual_detail = self._usual_change = np.zeros(GRID, dtype=np.float32)
        self._detail = self._change = self._usual_detail

    def look(self, look: Look) -> int:
        """How many patches are covered in the largest piece, out of 128; 0 where too few are for a finding."""
        detail = _patches(look.detail)
        level, before = _patches(look.grey), self._level
        self._level = level
        if before is None:
            return 0
        change = np.abs(level - before)
        self._looks += 1
        if self._looks == 1:
            self._usual_detail = self._detail = detail
            self._usual_change = self._change = change
        self._detail = _toward(self._detail, detail, np.float32(SMOOTHING))
        self._change = _toward(self._change, change, np.float32(0.3))
        is_lost = self._is_lost()
        rate = np.float32(max(0.03, 1 / self._looks))
        # What a lost patch was like stays remembered, or the dirt would become usual.
        self._usual_detail = np.where(is_lost, self._usual_detail, _toward(self._usual_detail, detail, rate))
        self._usual_change = np.where(is_lost, self._usual_change, _toward(self._usual_change, change, rate))
        if self._looks <= WARM_UP_LOOKS or np.count_nonzero(is_lost) < BLOCKED_PATCHES:
            return 0
        _, _, pieces, _ = cv2.connectedComponentsWithStats(is_lost.astype(np.uint8), connectivity=4)
        return int(pieces[1:, cv2.CC_STAT_AREA].max())

    def _is_lost(self) -> NDArray[np.bool_]:
        is_lost: NDArray[np.bool_] = (
            (self._detail < LOST_DETAIL * _left(self._detail, self._usual_detail, USUAL_DETAIL) * self._usual_detail)
            & (self._change < LOST_CHANGE * _left(self._change, self._usual_change, USUAL_CHANGE) * self._usual_change)
            & (self._usual_detail > USUAL_DETAIL)
            & (self._usual_change > USUAL_CHANGE)
        )
        return is_lost


def decode_small(data: bytes) -> F32:
    """(H, W) float32 grey levels of a JPEG or PNG, reduced by the decoder. Raises PayloadError where that fails."""
    width, _ = image_size(data)
    reductions = {
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    }
    flag = next((flag for by, flag in reductions.items() if width // by >= MIN_WIDTH_PX), cv2.IMREAD_GRAYSCALE)
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise PayloadError(f"image of {len(data)} bytes cannot be decoded: {error}") from None
    if grey is None:
        raise PayloadError(f"image of {len(data)} bytes cannot be decoded")
    return np.asarray(grey, dtype=np.float32)


def check_light(look: Look) -> Iterator[Evidence]:
    """Whether an image is dark, saturated or blurred; one that is dark or saturated is not called blurred."""
    levels = cv2.calcHist([look.grey.astype(np.uint8)], [0], None, [256], [0, 256])
    below = np.cumsum(levels) / look.grey.size
    bright = int(np.searchsorted(below, 0.99))
    white = 1.0 - float(below[SATURATED_LEVEL - 1])
    is_dark, is_white = bright < DARK_LEVEL, white > SATURATED_SHARE
    yield Evidence(FaultKind.DARK, is_dark, f"99 % of the pixels up to {bright} of 255")
    yield Evidence(FaultKind.SATURATED, is_white, f"{white:.0%} of the pixels are white")
    sharp = sharpness(look)
    is_blurred = not is_dark and not is_white and sharp < SHARPNESS
    yield Evidence(FaultKind.BLURRED, is_blurred, f"sharpness {sharp:.2f}, at least {SHARPNESS} is usual")


def sharpness(look: Look) -> float:
    """Mean detail of one pixel over that of a few; infinite where there is no detail at all.

    After Crete et al., "The blur effect: perception and estimation with a new no-reference perceptual blur metric"
    (SPIE 6492, 2007): what blurring once more changes little is blurred already.
    """
    coarse = cv2.blur(look.fine, (5, 5))
    middle = cv2.norm(look.fine, coarse, cv2.NORM_L1) / coarse.size
    return cv2.mean(look.detail)[0] / middle if middle > MIN_DETAIL else float("inf")


def _patches(values: F32) -> F32:
    rows, columns = GRID
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _left(now: F32, usual: F32, least: float) -> float:
    """How much of what is usual the unhurt patches still have, at most 1; of those with more than `least`."""
    is_told = usual > least
    if not is_told.any():
        return 1.0
    shares = now[is_told] / usual[is_told]
    place = int(UNHURT * (shares.size - 1))
    return min(1.0, float(np.partition(shares, place)[place]))


def _toward(usual: F32, now: F32, rate: np.float32) -> F32:
    moved: F32 = usual + rate * (now - usual)
    return moved
