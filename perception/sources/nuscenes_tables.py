"""The tables of a nuScenes-format drive: found, decoded with types, and cut down to one scene.

Only the fields that are needed are decoded; others are ignored. The three large tables (2.6 million rows in the full
data set) are read block by block, and of each block only the rows of the chosen scene are kept.
Schema: github.com/nutonomy/nuscenes-devkit, docs/schema_nuscenes.md.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from perception.core.errors import DriveError

BLOCK_BYTES = 8 << 20
OFFICIAL_VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
TABLES = (
    "scene",
    "sample",
    "sample_data",
    "ego_pose",
    "calibrated_sensor",
    "sensor",
    "sample_annotation",
    "instance",
    "category",
    "attribute",
)
_REMEDY = "restore the table from the data set's original archive"

Triple = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Row(msgspec.Struct, frozen=True, gc=False):
    token: str


class SceneRow(Row, frozen=True, gc=False):
    name: str


class SampleRow(Row, frozen=True, gc=False):
    timestamp: int
    scene_token: str


class SampleDataRow(Row, frozen=True, gc=False):
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: int
    is_key_frame: bool
    filename: str
    height: int | None = None
    width: int | None = None


class EgoPoseRow(Row, frozen=True, gc=False):
    timestamp: int
    rotation: Quaternion
    translation: Triple


class CalibratedSensorRow(Row, frozen=True, gc=False):
    sensor_token: str
    translation: Triple
    rotation: Quaternion
    camera_intrinsic: tuple[Triple, ...]


class SensorRow(Row, frozen=True, gc=False):
    channel: str
    modality: str


class AnnotationRow(Row, frozen=True, gc=False):
    sample_token: str
    instance_token: str
    attribute_tokens: tuple[str, ...]
    translation: Triple
    size: Triple
    rotation: Quaternion
    prev: str
    next: str
    num_lidar_pts: int
    num_radar_pts: int


class InstanceRow(Row, frozen=True, gc=False):
    category_token: str


class NameRow(Row, frozen=True, gc=False):
    """A row of `category` or `attribute`."""

    name: str


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneTables:
    """The rows of one scene, by token where they are looked up. `sensors` is the whole table, in its order."""

    folder: Path
    scene: SceneRow
    scene_names: tuple[str, ...]
    samples: dict[str, SampleRow]
    data: tuple[SampleDataRow, ...]
    poses: dict[str, EgoPoseRow]
    calibrations: dict[str, CalibratedSensorRow]
    sensors: dict[str, SensorRow]
    annotations: dict[str, AnnotationRow]
    instances: dict[str, InstanceRow]
    categories: dict[str, NameRow]
    attributes: dict[str, NameRow]

    def broken_link(self, table: str, row: Row, field: str, target: str) -> DriveError:
        """The error for a row whose `field` names a token that the table `target` lacks."""
        token = getattr(row, field)
        return DriveError(
            f"{self.folder / table}.json: row {row.token}, field {field}: {token!r} is not in {target}.json; {_REMEDY}"
        )


def find_version(root: Path, version: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The folder of tables under `root` (or `root` itself) and the names of others there that were not chosen.

    Without `version` the official ones come first, then the others by name. Raises DriveError where there is none.
    """
    if not root.is_dir():
        raise DriveError(
            f"{root}: no such folder; give the root of a nuScenes data set (it holds v1.0-... and samples/)"
        )
    if version is None and _has_tables(root):
        return root, ()
    found = sorted(child.name for child in root.iterdir() if child.is_dir() and _has_tables(child))
    if version is not None:
        if version not in found:
            raise DriveError(f"{root}: no tables of version {version!r}; there is {', '.join(found) or 'none'}")
        return root / version, ()
    if not found:
        raise DriveError(f"{root}: no folder with nuScenes tables (v1.0-mini/scene.json ...); give the data set's root")
    ordered = [name for name in OFFICIAL_VERSIONS if name in found]
    ordered += [name for name in found if name not in ordered]
    return root / ordered[0], tuple(ordered[1:])


def _has_tables(folder: Path) -> bool:
    return any((folder / f"{table}.json").is_file() for table in TABLES[:4])


def read_scenes(folder: Path) -> list[SceneRow]:
    """All scenes of a version, in the order of the table. Raises DriveError if there is none."""
    scenes = read_table(folder, "scene", SceneRow)
    if not scenes:
        raise DriveError(f"{folder / 'scene.json'}: the table is empty; {_REMEDY}")
    return scenes


def read_scene(folder: Path, scene: str | int | None = None) -> SceneTables:
    """Read what belongs to one scene, chosen by name, token or number from 0 (default: the first).

    Raises DriveError naming file, row and field where a table is missing or broken, and where the scene has no data.
    """
    scenes = read_scenes(folder)
    chosen = _choose(folder, scenes, scene)
    samples = by_token(read_table(folder, "sample", SampleRow, lambda row: row.scene_token == chosen.token))
    data = read_table(folder, "sample_data", SampleDataRow, lambda row: row.sample_token in samples)
    if not data:
        raise DriveError(f"{folder / 'sample_data.json'}: no row belongs to {chosen.name}; {_REMEDY}")
    pose_tokens = {row.ego_pose_token for row in data}
    annotations = by_token(
        read_table(folder, "sample_annotation", AnnotationRow, lambda row: row.sample_token in samples)
    )
    instance_tokens = {row.instance_token for row in annotations.values()}
    return SceneTables(
        folder=folder,
        scene=chosen,
        scene_names=tuple(row.name for row in scenes),
        samples=samples,
        data=tuple(data),
        poses=by_token(read_table(folder, "ego_pose", EgoPoseRow, lambda row: row.token in pose_tokens)),
        calibrations=by_token(read_table(folder, "calibrated_sensor", CalibratedSensorRow)),
        sensors=by_token(read_table(folder, "sensor", SensorRow)),
        annotations=annotations,
        instances=by_token(read_table(folder, "instance", InstanceRow, lambda row: row.token in instance_tokens)),
        categories=by_token(read_table(folder, "category", NameRow)),
        attributes=by_token(read_table(folder, "attribute", NameRow)),
    )


def _choose(folder: Path, scenes: list[SceneRow], wanted: str | int | None) -> SceneRow:
    if wanted is None:
        return scenes[0]
    if isinstance(wanted, int) and 0 <= wanted < len(scenes):
        return scenes[wanted]
    for row in scenes:
        if wanted in (row.name, row.token):
            return row
    if isinstance(wanted, str) and wanted.isdecimal():
        return _choose(folder, scenes, int(wanted))
    names = ", ".join(row.name for row in scenes[:10]) + (", ..." if len(scenes) > 10 else "")
    raise DriveError(f"{folder / 'scene.json'}: no scene {wanted!r} among its {len(scenes)}: {names}")


def by_token(rows: list[RowT]) -> dict[str, RowT]:
    return {row.token: row for row in rows}


def read_table(
    folder: Path, table: str, row_type: type[RowT], keep: Callable[[RowT], bool] | None = None
) -> list[RowT]:
    """Decode a table; of its rows those that `keep` wants (default: all).

    Raises DriveError naming file, row and field where the table is missing, is no JSON or has the wrong types.
    """
    path = folder / f"{table}.json"
    decoder = msgspec.json.Decoder(list[row_type])  # type: ignore[valid-type]
    try:
        try:
            return _read_blocks(path, decoder, keep)
        except _BadJsonError:
            # A text that looks like the border between two rows can mislead the cutting: the whole file decides.
            rows = _decode(path, decoder, path.read_bytes(), 0)
            return rows if keep is None else [row for row in rows if keep(row)]
    except FileNotFoundError:
        raise DriveError(f"{path}: the table is missing; {_REMEDY}") from None
    except OSError as error:
        raise DriveError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    except _BadJsonError as error:
        raise DriveError(f"{path}: not valid JSON ({error}); {_REMEDY}") from error


class _BadJsonError(Exception):
    """A block is no JSON."""


def _read_blocks(
    path: Path, decoder: "msgspec.json.Decoder[list[RowT]]", keep: Callable[[RowT], bool] | None
) -> list[RowT]:
    kept: list[RowT] = []
    count = 0
    with path.open("rb") as file:
        for block in _blocks(file):
            rows = _decode(path, decoder, block, count)
            count += len(rows)
            kept += rows if keep is None else filter(keep, rows)
    return kept


def _decode(path: Path, decoder: "msgspec.json.Decoder[list[RowT]]", block: bytes, first_row: int) -> list[RowT]:
    try:
        return decoder.decode(block)
    except msgspec.ValidationError as error:
        where = re.search(r" - at `\$(?:\[(\d+)\])?\.?([^`]*)`", str(error))
        reason = re.sub(r" - at `.*`$", "", str(error))
        row = f"row {first_row + int(where[1])}" if where and where[1] else "the table"
        field = f", field {where[2]}" if where and where[2] else ""
        raise DriveError(f"{path}: {row}{field}: {reason}; {_REMEDY}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _BadJsonError(str(error)) from error


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Cut a JSON array of flat objects into arrays of about `BLOCK_BYTES`."""
    opening, rest = b"", b""
    while block := file.read(BLOCK_BYTES):
        rest += block
        border = _last_border(rest)
        if border is not None:
            comma, start = border
            yield opening + rest[:comma] + b"]"
            opening, rest = b"[", rest[start:]
    yield opening + rest


def _last_border(text: bytes) -> tuple[int, int] | None:
    """Where the last `}, {` has its comma and its opening brace."""
    start = len(text)
    while (start := text.rfind(b"{", 0, start)) > 0:
        before = text[max(0, start - 64) : start].rstrip()
        if before.endswith(b",") and before[:-1].rstrip().endswith(b"}"):
            return text.rfind(b",", 0, start), start
    return None
