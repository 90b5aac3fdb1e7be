"""`perception convert`: drives from any format into MCAP or nuScenes."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from perception.cli.main import EXIT_DONE, EXIT_FAILED, EXIT_LOSSES
from perception.cli.options import output_options
from perception.cli.recording import open_recorder, rotation_of
from perception.core.errors import DriveError, PerceptionError, UsageError
from perception.core.messages import AnyMessage
from perception.core.ports import Source
from perception.core.rig import Modality
from perception.pipeline.conversion import Tallies, Tally, convert_drive, tally
from perception.recorders.mcap_files import Rotation, part_path
from perception.sources.open import open_drive

SECONDS = click.FloatRange(min=0, min_open=True)
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What is done to each drive. format_name, scene: how it is opened."""

    to: str
    format_name: str | None
    scene: str | None
    start_s: float
    duration_s: float | None
    rotation: Rotation
    verify: bool


@click.command()
@click.argument("drives", metavar="SRC...", nargs=-1, required=True)
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["mcap", "nuscenes"]), help="The format of DST [by its suffix: .mcap, or none]."
)
@click.option("--format", "format_name", help="The format of SRC; found out from the path if not given.")
@click.option("--scene", help="Which scene of a data set with several (name or number).")
@click.option("--start", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Skip the first S seconds.")
@click.option("--duration", type=SECONDS, metavar="S", help="Stop after S seconds of data.")
@click.option("--rotate-mb", type=SECONDS, metavar="MB", help="MCAP: begin a new file at this size.")
@click.option("--rotate-s", type=SECONDS, metavar="S", help="MCAP: begin a new file after so many seconds of data.")
@click.option("--verify/--no-verify", default=True, help="Read DST again and compare hashes [default].")
@output_options
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    *,
    drives: tuple[str, ...],
    destination: Path,
    to: str | None,
    format_name: str | None,
    scene: str | None,
    start: float,
    duration: float | None,
    rotate_mb: float | None,
    rotate_s: float | None,
    verify: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert drives in any format into MCAP files or nuScenes roots.

    One SRC becomes DST; several become files or folders in the folder DST (then --to is needed). A drive is written
    beside its place, under a name that ends in .partial, and moved there when it is whole: called again after a kill,
    the command passes over what is done and begins again with the drive it was at. MCAP keeps every bit of the sensor
    data; a nuScenes root keeps images byte for byte and the rest as that format can (see docs/formats.md).

    Exit codes: 0 done, 1 a drive failed, 3 something in a drive could not be read or kept.
    """
    conversion = Conversion(
        to=_format_of(destination, to, len(drives)), format_name=format_name, scene=scene,
        start_s=start, duration_s=duration,
        rotation=rotation_of(rotate_mb, rotate_s), verify=verify,
    )  # fmt: skip
    codes = [EXIT_DONE]
    for drive, place in _places(drives, destination, conversion.to):
        try:
            account = _convert(drive, place, conversion, quiet or as_json)
        except PerceptionError as error:
            if len(drives) == 1:
                raise
            account = {"drive": drive, "error": str(error)}
            codes.append(EXIT_FAILED)
        if account.get("differs") or account.get("unreadable"):
            codes.append(EXIT_LOSSES)
        if as_json:
            click.echo(json.dumps(account))
        elif "error" in account:
            click.echo(f"error: {account['error']}", err=True)
        elif not quiet:
            click.echo(_in_words(account))
    ctx.exit(EXIT_FAILED if EXIT_FAILED in codes else max(codes))


def _format_of(destination: Path, to: str | None, drives: int) -> str:
    """Raises UsageError where name and format of DST do not fit."""
    if drives > 1 and (to is None or destination.suffix):
        raise UsageError("several drives go into one folder: give --to mcap or --to nuscenes, and a folder as DST")
    if drives > 1 and to is not None:
        return to
    found = {".mcap": "mcap", "": "nuscenes"}.get(destination.suffix)
    if found is None or to not in (None, found):
        raise UsageError(f"{destination}: a name that ends in .mcap becomes an MCAP file, one without a suffix a root")
    return found


def _places(drives: tuple[str, ...], destination: Path, to: str) -> list[tuple[str, Path]]:
    """Where each drive goes. Raises UsageError where two would go to one place."""
    if len(drives) == 1:
        return [(drives[0], destination)]
    places = {drive: destination / _name_of(drive, to) for drive in drives}
    taken: dict[Path, str] = {}
    for drive, place in places.items():
        if (other := taken.setdefault(place, drive)) != drive:
            raise UsageError(f"{other} and {drive} would both become {place}: convert them one by one")
    return list(places.items())


def _name_of(drive: str, to: str) -> str:
    name = Path(drive).stem if Path(drive).is_file() else Path(drive).name
    return f"{name}.mcap" if to == "mcap" else name


def _convert(drive: str, place: Path, conversion: Conversion, silent: bool) -> dict[str, Any]:
    """Convert one drive; the account of it. Raises what opening, reading and writing raise."""
    if place.exists():
        return {"drive": drive, "to": str(place), "skipped": "it is there already"}
    if conversion.rotation != Rotation() and (second := part_path(place, 1)).exists():
        raise DriveError(f"{second}: it exists, and a drive in several files would replace it; move it away")
    work = place.with_name(place.name + PARTIAL)
    if work.is_dir():
        shutil.rmtree(work)
    try:
        with contextlib.closing(open_drive(drive, format=conversion.format_name, scene=conversion.scene)) as source:
            work.mkdir(parents=True)
            inside = work / place.name
            with (
                contextlib.closing(open_recorder(inside, source, conversion.rotation)) as recorder,
                _progress(source, conversion, silent) as advance,
            ):
                written = convert_drive(
                    source, recorder,
                    start_s=conversion.start_s, duration_s=conversion.duration_s, on_message=advance,
                )  # fmt: skip
            if not written:
                raise DriveError(f"{drive}: no message in the chosen part")
            account = _account(drive, place, written)
            if conversion.verify:
                account |= _verify(inside if conversion.to == "nuscenes" else work, conversion.to, source, written)
        account["bytes_on_disk"] = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
        # What names the drive goes last: where it is, the rest is.
        files = sorted(work.iterdir(), key=lambda path: path.name == place.name)
        for path in files:
            path.rename(place.with_name(path.name))
        account["files"] = len(files)
    except OSError as error:
        raise DriveError(f"{place}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return account


def _account(drive: str, place: Path, written: Tallies) -> dict[str, Any]:
    return {
        "drive": drive,
        "to": str(place),
        "messages": sum(found.messages for found in written.values()),
        "payload_bytes": sum(found.payload_bytes for found in written.values()),
        "unreadable": sum(found.unreadable for found in written.values()),
    }


def _verify(place: Path, to: str, source: Source, written: Tallies) -> dict[str, Any]:
    """Read again what was written, and name the sensors of which something differs."""
    with contextlib.closing(open_drive(place, format=to)) as converted:
        found = tally(converted.messages())
    if to == "mcap":
        sensors = sorted(written.keys() | found.keys())
        return {"verified": len(sensors), "differs": [n for n in sensors if _digest(found, n) != _digest(written, n)]}
    cameras = [sensor.name for sensor in source.rig.of(Modality.CAMERA) if sensor.name in written]
    differs = [name for name in cameras if _images(found, name) != _images(written, name)]
    names = [sensor.name for sensor in source.rig.sensors if sensor.name in written]
    differs += [name for name in names if name not in differs and _count(found, name) != _count(written, name)]
    return {"verified": len(names), "differs": differs}


def _digest(tallies: Tallies, name: str) -> str:
    return tallies.get(name, Tally()).digest


def _images(tallies: Tallies, name: str) -> str:
    return tallies.get(name, Tally()).payload_digest


def _count(tallies: Tallies, name: str) -> int:
    return tallies.get(name, Tally()).messages


def _in_words(account: dict[str, Any]) -> str:
    if "skipped" in account:
        return f"{account['to']}: {account['skipped']}"
    text = (
        f"{account['to']}: {account['messages']} messages, {account['payload_bytes'] / 1e6:.1f} MB of sensor data in "
        f"{account['bytes_on_disk'] / 1e6:.1f} MB"
    )
    if account["files"] > 1:
        text += f", {account['files']} files (read together as a folder)"
    if account["unreadable"]:
        text += f"; {account['unreadable']} could not be read and are in it as such"
    if "verified" in account:
        text += f"; read again: {account['verified']} streams"
        text += f", of which differ: {', '.join(account['differs'])}" if account["differs"] else ", all the same"
    return text


@contextlib.contextmanager
def _progress(source: Source, conversion: Conversion, silent: bool) -> Iterator[Callable[[AnyMessage], None]]:
    """A bar on a terminal; in a pipe nothing is shown."""
    span = source.span_ns
    if silent or span is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    first_ns = span[0] + round(conversion.start_s * 1e9)
    total_s = min((span[1] - first_ns) / 1e9, conversion.duration_s or float("inf"))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(source.drive_id, total=total_s)
        yield lambda message: progress.update(task, completed=(message.arrival_ns - first_ns) / 1e9)
