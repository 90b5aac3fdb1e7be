"""The map of a nuScenes root: a picture of where one may drive, and the corner of the world that it begins at."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

CELL_M: Final = 0.1
"""Side of a pixel of nuScenes' masks: the devkit takes no other."""
_DRIVABLE: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrivableMask:
    """is_drivable: (H, W) bool, row 0 at the lowest y, column 0 at the lowest x, cells of `CELL_M`.

    corner_m: (2,) float64, the point of the world where the first cell begins.
    """

    is_drivable: NDArray[np.bool_]
    corner_m: F64

    def __post_init__(self) -> None:
        if self.is_drivable.ndim != 2 or self.is_drivable.size == 0 or self.corner_m.shape != (2,):
            raise ValueError(f"drivable mask: {self.is_drivable.shape} cells, corner {self.corner_m.shape}")

    @classmethod
    def blank(cls) -> "DrivableMask":
        """What stands for a map where none is known."""
        return cls(is_drivable=np.zeros((16, 16), dtype=np.bool_), corner_m=np.zeros(2))

    def png(self) -> bytes:
        """As nuScenes stores it: 255 where drivable, the highest y in the first row."""
        image = np.flipud(self.is_drivable).view(np.uint8) * np.uint8(_DRIVABLE)
        return cv2.imencode(".png", image)[1].tobytes()
