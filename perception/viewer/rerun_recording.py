"""A Rerun recording on its way to a file, a viewer, or both."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import rerun as rr

from perception.viewer.video import check_writable, make_folder

APPLICATION = "perception"
FLUSH_S = 30.0


@contextlib.contextmanager
def open_recording(*, save: Path | None, data_url: str | None) -> Iterator[rr.RecordingStream]:
    """A recording that goes to the file `save` and to the viewer at `data_url`, whole when the block ends.

    Raises UsageError where the file cannot be written.
    """
    recording = rr.RecordingStream(APPLICATION)
    recording.set_log_time_enabled(False)
    recording.set_log_tick_enabled(False)
    sinks: list[rr.FileSink | rr.GrpcSink] = []
    if save is not None:
        make_folder(save.parent, "--save")
        check_writable(save, "--save")
        sinks.append(rr.FileSink(save))
    if data_url is not None:
        sinks.append(rr.GrpcSink(data_url))
    recording.set_sinks(*sinks)
    try:
        yield recording
    finally:
        recording.flush(timeout_sec=FLUSH_S)
        recording.disconnect()
