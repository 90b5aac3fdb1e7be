"""Recorders that draw: a folder of pictures, and a video."""

from pathlib import Path

import cv2

from perception.core.errors import DriveError
from perception.core.labels import Labels
from perception.core.ports import Recorded, Source
from perception.core.results import EndOfRun, PerceptionResult
from perception.viewer.picture import draw_scene
from perception.viewer.scenes import SceneComposer
from perception.viewer.video import VideoWriter, make_folder


class PictureFolder:
    """Writes `NNNNNN.png` into `folder` for every `every`-th result.

    Raises UsageError where the folder cannot be made, DriveError where the disk refuses a picture.
    """

    def __init__(self, source: Source, folder: Path, *, every: int) -> None:
        make_folder(folder, "--pictures")
        self._composer = SceneComposer(source)
        self._folder = folder
        self._every = every

    def write(self, item: Recorded) -> None:
        """Remember a message, draw a result."""
        if isinstance(item, PerceptionResult):
            if item.sequence % self._every == 0:
                self._draw(item)
        elif not isinstance(item, Labels | EndOfRun):
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
    """Writes one frame of an MP4 video for each result. Raises as `VideoWriter` does."""

    def __init__(self, source: Source, path: Path, *, frames_per_s: float) -> None:
        self._video = VideoWriter(path, frames_per_s=frames_per_s, option="--video")
        self._composer = SceneComposer(source)

    def write(self, item: Recorded) -> None:
        """Remember a message, draw a result."""
        if isinstance(item, PerceptionResult):
            self._video.add(draw_scene(self._composer.compose(item)))
        elif not isinstance(item, Labels | EndOfRun):
            self._composer.observe(item)

    def close(self) -> None:
        self._video.close()
