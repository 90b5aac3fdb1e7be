"""A video, one picture at a time."""

from pathlib import Path

import cv2
import numpy as np

from perception.core.errors import DriveError, UsageError
from perception.viewer.scenes import Image

VIDEO_SUFFIX = ".mp4"


class VideoWriter:
    """An MP4 file. option: what the user calls it by, for messages.

    Raises UsageError where the file cannot be written, and on `close` DriveError where it is not all there.
    """

    def __init__(self, path: Path, *, frames_per_s: float, option: str) -> None:
        if path.suffix != VIDEO_SUFFIX:
            raise UsageError(f"{option} {path}: the file must end in {VIDEO_SUFFIX}")
        make_folder(path.parent, option)
        check_writable(path, option)
        self._path = path
        self._option = option
        self._frames_per_s = frames_per_s
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def add(self, picture: Image) -> None:
        """One more frame; all have the size of the first."""
        if self._writer is None:
            # The codec stores colours for two by two pixels.
            self._size = (picture.shape[1] & ~1, picture.shape[0] & ~1)
            self._writer = self._open(*self._size)
        self._writer.write(_fit(picture, self._size))
        self._frames += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        # The writer says nothing where the disk is full.
        found = round(cv2.VideoCapture(str(self._path)).get(cv2.CAP_PROP_FRAME_COUNT))
        if found != self._frames:
            raise DriveError(f"{self._path}: {found} of {self._frames} frames were written; is the disk full?")

    def _open(self, width_px: int, height_px: int) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._path), code, self._frames_per_s, (width_px, height_px))
        if not writer.isOpened():
            raise UsageError(f"{self._option} {self._path}: cannot be written; check the folder and the disk")
        return writer


def make_folder(folder: Path, option: str) -> None:
    """Raises UsageError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: the folder cannot be made ({error.strerror})") from error


def check_writable(path: Path, option: str) -> None:
    """Raises UsageError where a file cannot be written; one that is there stays as it is."""
    try:
        with path.open("ab") as file:
            is_new = file.tell() == 0
        if is_new:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written ({error.strerror}); choose another folder") from error


def _fit(picture: Image, size: tuple[int, int]) -> Image:
    """The picture at `size` (width, height), as a video wants it: pictures shrink where cameras are missing."""
    width, height = size
    if picture.shape[1] - width in (0, 1) and picture.shape[0] - height in (0, 1):
        return np.ascontiguousarray(picture[:height, :width])
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = cv2.resize(picture, (int(picture.shape[1] * scale), int(picture.shape[0] * scale)))
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[: inner.shape[0], width - inner.shape[1] :] = inner
    return canvas
