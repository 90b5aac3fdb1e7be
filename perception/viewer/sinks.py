"""Recorders that draw: a folder of pictures, and a video."""

from pathlib import Path

import cv2
import numpy as np

from perception.core.errors import DriveError, UsageError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.viewer.picture import Image, draw_scene
from perception.viewer.scenes import SceneComposer

VIDEO_SUFFIX = ".mp4"


class PictureFolder:
    """Writes `NNNNNN.png` into `folder` for every `every`-th result.

    Raises UsageError where the folder cannot be made, DriveError where the disk refuses a picture.
    """

    def __init__(self, source: Source, folder: Path, *, every: int) -> None:
        _make_folder(folder, "--pictures")
        self._composer = SceneComposer(source)
        self._folder = folder
        self._every = every

    def write(self, item: AnyMessage | PerceptionResult | Labels) -> None:
        """Remember a message, draw a result."""
        if isinstance(item, PerceptionResult):
            if item.sequence % self._every == 0:
                self._draw(item)
        elif not isinstance(item, Labels):
            self._composer.observe(item)

    def close(self) -> None:
        """Every picture is complete as soon as it is drawn."""

    def _draw(self, result: PerceptionResult) -> None:
        data = cv2.imencode(".png", draw_scene(self._composer.compose(result)))[1].tobytes()
        path = self._folder / f"{result.sequence:06d}.png"
        try:
            path.write_bytes(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise DriveError(f"{path}: cannot be written ({error.strerror}); pictures before it stay") from error


class VideoFile:
    """Writes one frame of an MP4 video for each result.

    Raises UsageError where the file cannot be written, and on `close` DriveError where it is not all there.
    """

    def __init__(self, source: Source, path: Path, *, frames_per_s: float) -> None:
        if path.suffix != VIDEO_SUFFIX:
            raise UsageError(f"--video {path}: the file must end in {VIDEO_SUFFIX}")
        _make_folder(path.parent, "--video")
        _check_writable(path)
        self._composer = SceneComposer(source)
        self._path = path
        self._frames_per_s = frames_per_s
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, item: AnyMessage | PerceptionResult | Labels) -> None:
        """Remember a message, draw a result."""
        if isinstance(item, PerceptionResult):
            picture = draw_scene(self._composer.compose(item))
            if self._writer is None:
                self._size = (picture.shape[1], picture.shape[0])
                self._writer = self._open(*self._size)
            self._writer.write(_fit(picture, self._size))
            self._frames += 1
        elif not isinstance(item, Labels):
            self._composer.observe(item)

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
            raise UsageError(f"--video {self._path}: cannot be written; check the folder and the disk")
        return writer


def _make_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {folder}: the folder cannot be made ({error.strerror})") from error


def _check_writable(path: Path) -> None:
    try:
        with path.open("ab") as file:
            is_new = file.tell() == 0
        if is_new:
            path.unlink()
    except OSError as error:
        raise UsageError(f"--video {path}: cannot be written ({error.strerror}); choose another folder") from error


def _fit(picture: Image, size: tuple[int, int]) -> Image:
    """The picture at `size` (width, height), as a video wants it: pictures shrink where cameras are missing."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = cv2.resize(picture, (int(picture.shape[1] * scale), int(picture.shape[0] * scale)))
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[: inner.shape[0], width - inner.shape[1] :] = inner
    return canvas
