"""Finds a map by name or path: shipped networks, any SUMO network, OpenDRIVE through netconvert."""

import hashlib
import os
import tempfile
from pathlib import Path

from perception.core.errors import ConfigError
from sim.maps.net import RoadMap, read_net
from sim.maps.plain import run_tool

FOLDER = Path(__file__).parent
OPENDRIVE_OPTIONS = (
    "--opendrive.import-all-lanes",
    "--opendrive.curve-resolution=2",
    "--no-turnarounds",
    "--no-warnings",
)


def map_names() -> tuple[str, ...]:
    """Names of the shipped maps, sorted."""
    return tuple(sorted(path.name.removesuffix(".net.xml") for path in FOLDER.glob("*.net.xml")))


def load_map(name_or_path: str | Path) -> RoadMap:
    """The map of a name (`map_names`), a `.net.xml` file or an OpenDRIVE `.xodr` file.

    Raises ConfigError for an unknown name (it lists the known ones), a file that is no network, or an OpenDRIVE file
    where eclipse-sumo is not installed.
    """
    text = str(name_or_path)
    if text in map_names():
        return read_net(FOLDER / f"{text}.net.xml")
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"no map {text!r}: neither a file nor one of {', '.join(map_names())}")
    return read_net(_from_opendrive(path) if path.suffix == ".xodr" else path)


def _from_opendrive(path: Path) -> Path:
    """Convert once; the result is kept under the hash of the file's bytes in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception" / "maps"
    target = cache / f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.net.xml"
    if target.is_file():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "made.net.xml"
            run_tool("netconvert", [f"--opendrive-files={path}", *OPENDRIVE_OPTIONS, f"--output-file={made}"])
            made.replace(target)
    except ConfigError as error:
        raise ConfigError(f"{path}: this OpenDRIVE file cannot be converted to a SUMO network: {error}") from error
    except OSError as error:
        raise ConfigError(f"{cache}: converted maps cannot be kept here ({error}); set XDG_CACHE_HOME") from error
    return target
