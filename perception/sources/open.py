"""Open a drive from its path: the format is found out, or named.

Third parties add formats through the entry point group `perception.sources`: a name and an object (an instance, a
module, a class with static methods) that fits `SourceFormat`.
"""

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from perception.config.schema import LatencyConfig
from perception.core.errors import DriveError, UsageError
from perception.core.ports import Source

GROUP = "perception.sources"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """What the user chose besides the path. scene: name or number, None for the first."""

    latency: LatencyConfig
    scene: str | None


@runtime_checkable
class SourceFormat(Protocol):
    """Reads one format."""

    def detect(self, path: str) -> bool:
        """Whether `path` looks like this format; quick, and never an error."""
        ...

    def open(self, path: str, options: OpenOptions) -> Source:
        """Raises DriveError where the drive cannot be read, UsageError where the path makes no sense."""
        ...


@dataclass(frozen=True, slots=True)
class FolderFormat:
    """A format that is a folder. module, name: what makes its source, imported then. markers: glob patterns."""

    module: str
    name: str
    markers: tuple[str, ...]

    def detect(self, path: str) -> bool:
        folder = Path(path)
        return (
            path_exists(path) and folder.is_dir() and any(True for marker in self.markers for _ in folder.glob(marker))
        )

    def open(self, path: str, options: OpenOptions) -> Source:
        if not path_exists(path) or not Path(path).is_dir():
            raise DriveError(f"{path}: no such folder")
        factory = getattr(import_module(self.module), self.name)
        source: Source = factory(Path(path), scene=options.scene, latency=options.latency)
        return source


class SyntheticFormat:
    """`synthetic:` or `synthetic:seed=1,duration=5`."""

    prefix = "synthetic:"

    def detect(self, path: str) -> bool:
        return path.startswith(self.prefix)

    def open(self, path: str, options: OpenOptions) -> Source:
        from perception.sources.synthetic import SyntheticSource

        values = {"seed": 0.0, "duration": 5.0}
        for setting in filter(None, path.removeprefix(self.prefix).split(",")):
            key, _, text = setting.partition("=")
            if key not in values:
                raise UsageError(f"{path}: unknown setting {key!r}; known are {', '.join(values)}")
            try:
                values[key] = float(text)
            except ValueError:
                raise UsageError(f"{path}: {key} must be a number, got {text!r}") from None
        if not 0 < values["duration"] < float("inf") or not values["seed"].is_integer() or values["seed"] < 0:
            raise UsageError(f"{path}: duration must be positive, and seed a whole number from 0")
        return SyntheticSource(seed=int(values["seed"]), duration_s=values["duration"], latency=options.latency)


class BagFormat:
    """Bags of ROS 2 and ROS 1: a file or a folder, with `?topics=FILE` behind it where a mapping lies elsewhere."""

    markers = ("*.mcap (with messages of ROS)", "*.db3", "*.bag")

    def detect(self, path: str) -> bool:
        if not path_exists(path.partition("?topics=")[0]):
            return False
        from perception.sources.rosbag import is_bag

        return is_bag(path)

    def open(self, path: str, options: OpenOptions) -> Source:
        from perception.sources.rosbag import RosbagSource

        return RosbagSource(path, scene=options.scene)


class McapFormat:
    """Drives that `perception.recorders.mcap` wrote: a file, or a folder with the files of one recording."""

    markers = ("*.mcap (recorded by perception)",)

    def detect(self, path: str) -> bool:
        if not path_exists(path):
            return False
        from perception.sources.mcap import is_drive

        return is_drive(Path(path))

    def open(self, path: str, options: OpenOptions) -> Source:
        from perception.sources.mcap import McapSource

        return McapSource(path, scene=options.scene)


SOURCES: dict[str, SourceFormat] = {
    "synthetic": SyntheticFormat(),
    "nuscenes": FolderFormat(
        "perception.sources.nuscenes",
        "NuScenesSource",
        ("v1.0-*", "scene.json", "sample_data.json", "*/scene.json", "*/sample_data.json"),
    ),
    "pandaset": FolderFormat(
        "perception.sources.pandaset",
        "PandaSetSource",
        ("lidar/poses.json", "lidar/*.pkl.gz", "*/lidar/poses.json", "*/lidar/*.pkl.gz"),
    ),
    "aimotive": FolderFormat(
        "perception.sources.aimotive",
        "AiMotiveSource",
        ("sensor/calibration", "dynamic/raw-revolutions", "*/sensor/calibration", "*/dynamic/raw-revolutions"),
    ),
    "kitti": FolderFormat(
        "perception.sources.kitti",
        "KittiSource",
        ("training/calib", "testing/calib", "calib/*.txt"),
    ),
    "kitti_raw": FolderFormat(
        "perception.sources.kitti_raw",
        "KittiRawSource",
        ("oxts/data", "velodyne_points/data", "*/oxts/data", "*/velodyne_points/data", "*/*/velodyne_points/data"),
    ),
    "av2": FolderFormat(
        "perception.sources.av2",
        "open_log",
        ("city_SE3_egovehicle.feather", "*/city_SE3_egovehicle.feather"),
    ),
    "rosbag": BagFormat(),
    "mcap": McapFormat(),
}


def path_exists(path: str) -> bool:
    """Whether there is a file or folder of that name; False, and no error, for what is too long to be a name."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a description of a drive is no file name


def known_formats() -> tuple[str, ...]:
    """Names of all formats that can be read, third parties' included."""
    return (*SOURCES, *(name for name in _third_party() if name not in SOURCES))


def open_drive(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word that users know from --format
    scene: str | None = None,
    latency: LatencyConfig | None = None,
) -> Source:
    """Open the drive at `path`.

    format: a name of `known_formats`; None finds it out. scene: which drive of a data set with several, default the
    first. latency: assumed delays where a format records no arrival times.
    Raises UsageError for an unknown format, DriveError where there is no drive or it cannot be read.
    """
    text = str(path)
    options = OpenOptions(latency=latency or LatencyConfig(), scene=scene)
    if format is not None:
        return _format(format).open(text, options)
    for name in known_formats():
        if (candidate := _format(name)).detect(text):
            return candidate.open(text, options)
    if not path_exists(text):
        raise DriveError(f"{text}: no such file or folder")
    raise DriveError(f"{text}: no drive of a known format here; looked for\n{_looked_for()}")


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _format(name: str) -> SourceFormat:
    if name in SOURCES:
        return SOURCES[name]
    point = _third_party().get(name)
    if point is None:
        raise UsageError(f"unknown format {name!r}; known are {', '.join(known_formats())}")
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"format {name!r} ({point.value}) cannot be loaded: {error}; uninstall or mend it") from error
    if not isinstance(loaded, SourceFormat):
        raise UsageError(f"format {name!r} ({point.value}) has no detect and open; uninstall or mend it")
    return loaded


def _looked_for() -> str:
    lines = [
        f"  {name}: {', '.join(f.markers)}"
        for name, f in SOURCES.items()
        if isinstance(f, FolderFormat | BagFormat | McapFormat)
    ]
    lines += [f"  {name}: as its own reader decides" for name in known_formats() if name not in SOURCES]
    return "\n".join(lines)
