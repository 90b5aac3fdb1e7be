"""What `--record` makes of its argument."""

from pathlib import Path

from perception.core.errors import UsageError
from perception.core.ports import Recorder, Source
from perception.recorders.nuscenes import NuScenesRecorder


def open_recorder(path: Path, source: Source) -> Recorder:
    """A recorder chosen by the suffix of `path`: a folder becomes a nuScenes root.

    Raises UsageError for other suffixes and for a folder that holds something.
    """
    if path.suffix:
        raise UsageError(f"--record {path}: no recorder writes {path.suffix} files; give a folder for a nuScenes root")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--record {path}: it exists and is not an empty folder; choose another name")
    return NuScenesRecorder(path, source.rig, source.drive_id)
