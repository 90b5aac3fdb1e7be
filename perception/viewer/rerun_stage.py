"""A recording, laid out, with what writes scenes into it."""

import rerun as rr

from perception.viewer.rerun_layout import Frame, layout
from perception.viewer.rerun_scene import SceneLog, SceneStyle


class Stage:
    """`arrange` lays the viewer out, again where other cameras come; `log` writes."""

    def __init__(self, recording: rr.RecordingStream, *, name: str, frame: Frame, style: SceneStyle) -> None:
        self._recording = recording
        self._frame = frame
        recording.send_recording_name(name)
        self.log = SceneLog(recording, style)

    def arrange(self, cameras: tuple[str, ...], *, has_results: bool) -> None:
        self._recording.send_blueprint(layout(frame=self._frame, cameras=cameras, has_results=has_results))
