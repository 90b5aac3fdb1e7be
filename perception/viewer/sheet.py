"""A contact sheet: some pictures of a drive, evenly chosen, on one page."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from perception.core.errors import UsageError
from perception.viewer import colors
from perception.viewer.scenes import Image
from perception.viewer.video import check_writable, make_folder

SHEET_SUFFIXES = (".png", ".jpg")
GAP_PX = 6


class ContactSheet:
    """Keeps about `tiles` pictures, evenly spread over however many come, and writes them on `close`.

    Raises UsageError where the file cannot be written.
    """

    def __init__(self, path: Path, *, tiles: int, columns: int, tile_width_px: int, option: str) -> None:
        if path.suffix not in SHEET_SUFFIXES:
            raise UsageError(f"{option} {path}: a contact sheet ends in {' or '.join(SHEET_SUFFIXES)}")
        make_folder(path.parent, option)
        check_writable(path, option)
        self._path = path
        self._option = option
        self._tiles = tiles
        self._columns = columns
        self._width_px = tile_width_px
        self._kept: list[Image] = []
        self._every = 1
        self._count = 0

    def add(self, picture: Image) -> None:
        """One more picture to choose from; at most twice as many as there are tiles are kept."""
        if self._count % self._every == 0:
            height = round(picture.shape[0] * self._width_px / picture.shape[1])
            small = cv2.resize(picture, (self._width_px, height), interpolation=cv2.INTER_AREA)
            self._kept.append(np.asarray(small, dtype=np.uint8))
        self._count += 1
        if len(self._kept) >= 2 * self._tiles:
            self._kept = self._kept[::2]
            self._every *= 2

    def close(self) -> None:
        """Write the sheet, if any picture came."""
        if not self._kept:
            return
        chosen = np.unique(np.linspace(0, len(self._kept) - 1, min(self._tiles, len(self._kept))).round().astype(int))
        page = cv2.imencode(self._path.suffix, _arrange([self._kept[i] for i in chosen], self._columns))[1]
        try:
            self._path.write_bytes(page.tobytes())
        except OSError as error:
            raise UsageError(f"{self._option} {self._path}: cannot be written ({error.strerror})") from error


def _arrange(tiles: Iterable[Image], columns: int) -> Image:
    """Tiles row by row, with gaps between them."""
    shown = list(tiles)
    columns = min(columns, len(shown))
    width = shown[0].shape[1] + GAP_PX
    height = max(tile.shape[0] for tile in shown) + GAP_PX
    rows = -(-len(shown) // columns)
    page = np.full((rows * height + GAP_PX, columns * width + GAP_PX, 3), colors.BACKGROUND[::-1], dtype=np.uint8)
    for i, tile in enumerate(shown):
        y, x = GAP_PX + i // columns * height, GAP_PX + i % columns * width
        page[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return page
