"""Reading nuScenes tables: whole and in blocks, chosen scenes, and errors that name file, row and field."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from perception.core.errors import DriveError
from perception.sources import nuscenes_tables
from perception.sources.nuscenes import NuScenesSource, scenes
from perception.sources.nuscenes_tables import NameRow, read_table
from perception.sources.synthetic import SyntheticSource
from tests.unit.nuscenes_roots import VERSION, record, rewrite, small_rig, table


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(SyntheticSource(duration_s=0.6, rig=small_rig()), tmp_path_factory.mktemp("drive"))


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "root"))


@pytest.mark.parametrize("layout", [{"indent": None}, {"indent": 0}, {"indent": 4}, {"separators": (",", ":")}])
@pytest.mark.parametrize("block_bytes", [7, 64, 300, 1 << 20])
def test_blocks_of_any_size_give_the_same_rows(
    layout: dict[str, Any], block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuscenes_tables, "BLOCK_BYTES", block_bytes)
    rows = [{"token": f"t{i}", "name": f"n{i}" * (i % 5), "more": [i, [i]], "flag": None} for i in range(40)]
    (tmp_path / "category.json").write_text(json.dumps(rows, **layout))
    read = read_table(tmp_path, "category", NameRow)
    assert [(row.token, row.name) for row in read] == [(row["token"], row["name"]) for row in rows]
    kept = read_table(tmp_path, "category", NameRow, lambda row: row.token.endswith("7"))
    assert [row.token for row in kept] == ["t7", "t17", "t27", "t37"]


@pytest.mark.parametrize("block_bytes", [7, 40, 100])
def test_text_and_nesting_that_look_like_a_border_mislead_nobody(
    block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuscenes_tables, "BLOCK_BYTES", block_bytes)
    rows = [{"token": f"t{i}", "name": "a},{b", "extra": [{"x": 1}, {"y": 2}]} for i in range(20)]
    (tmp_path / "category.json").write_text(json.dumps(rows))
    assert [row.name for row in read_table(tmp_path, "category", NameRow)] == ["a},{b"] * 20


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "category.json").write_text("[]")
    assert read_table(tmp_path, "category", NameRow) == []


def test_the_row_of_an_error_counts_from_the_start_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuscenes_tables, "BLOCK_BYTES", 50)
    rows: list[dict[str, object]] = [{"token": f"t{i}", "name": "n"} for i in range(30)]
    rows[23]["name"] = 5
    (tmp_path / "category.json").write_text(json.dumps(rows))
    with pytest.raises(DriveError, match=r"category\.json: row 23, field name: Expected `str`, got `int`; restore"):
        read_table(tmp_path, "category", NameRow)


@pytest.mark.parametrize("name", nuscenes_tables.TABLES)
def test_a_missing_table_is_named(root: Path, name: str) -> None:
    (root / VERSION / f"{name}.json").unlink()
    with pytest.raises(DriveError, match=rf"{name}\.json: the table is missing; restore"):
        NuScenesSource(root)


@pytest.mark.parametrize("content", ["", "[", "{", "not json", '[{"token": "a"', '[{"token": NaN}]', "\0\0\0"])
def test_a_table_that_is_no_json_is_named(root: Path, content: str) -> None:
    (root / VERSION / "sample_data.json").write_text(content)
    with pytest.raises(DriveError, match=r"sample_data\.json: .*restore"):
        NuScenesSource(root)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("sample_data", "timestamp", "late"),
        ("sample_data", "timestamp", None),
        ("sample_data", "filename", 3),
        ("sample_data", "is_key_frame", "yes"),
        ("ego_pose", "rotation", [1.0, 0.0, 0.0]),
        ("ego_pose", "translation", None),
        ("calibrated_sensor", "camera_intrinsic", 5),
        ("sample_annotation", "size", ["a", "b", "c"]),
        ("sample_annotation", "num_lidar_pts", 1.5),
        ("sample", "scene_token", []),
        ("scene", "name", None),
    ],
)
def test_a_wrong_type_or_a_missing_field_is_named(root: Path, name: str, field: str, value: object) -> None:
    rows = table(root, name)
    rows[-1][field] = value
    rewrite(root, name, rows)
    with pytest.raises(DriveError, match=rf"{name}\.json: row {len(rows) - 1}, field {field}"):
        NuScenesSource(root)
    del rows[-1][field]
    rewrite(root, name, rows)
    with pytest.raises(DriveError, match=rf"{name}\.json: row {len(rows) - 1}: .*{field}"):
        NuScenesSource(root)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("sample_data", "ego_pose_token"),
        ("sample_data", "calibrated_sensor_token"),
        ("calibrated_sensor", "sensor_token"),
        ("sample_annotation", "instance_token"),
        ("instance", "category_token"),
    ],
)
def test_a_token_that_leads_nowhere_is_named(root: Path, name: str, field: str) -> None:
    rows = table(root, name)
    rows[0][field] = "nowhere"
    rewrite(root, name, rows)
    with pytest.raises(DriveError, match=rf"{name}\.json: row {rows[0]['token']}, field {field}: 'nowhere'"):
        NuScenesSource(root)


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        ("ego_pose", "rotation", [0, 0, 0, 0], "no pose"),
        ("calibrated_sensor", "rotation", [0, 0, 0, 0], "length zero"),
        ("calibrated_sensor", "camera_intrinsic", [], "3x3"),
        ("sample_annotation", "rotation", [0, 0, 0, 0], "length zero"),
        ("sensor", "modality", "sonar", "'sonar', not camera, lidar, radar"),
    ],
)
def test_numbers_that_make_no_sense_are_named(root: Path, name: str, field: str, value: object, text: str) -> None:
    rows = table(root, name)
    rows[0][field] = value
    rewrite(root, name, rows)
    with pytest.raises(DriveError, match=rf"{name}\.json: row {rows[0]['token']}.*{text}"):
        NuScenesSource(root)


def test_unknown_fields_and_unsorted_rows_do_not_matter(root: Path, recorded: Path) -> None:
    for name in nuscenes_tables.TABLES:
        rewrite(root, name, [{**row, "extra": {"deep": [1]}} for row in reversed(table(root, name))])
    shuffled, plain = NuScenesSource(root), NuScenesSource(recorded)
    assert [(m.sensor, m.capture_ns) for m in shuffled.messages()] == [
        (m.sensor, m.capture_ns) for m in plain.messages()
    ]


@pytest.fixture
def two_scenes(root: Path) -> Path:
    """A root whose second scene has a copy of the first one's keyframes."""
    for name in ("scene", "sample", "sample_data"):
        rows = table(root, name)
        copies = [{**row, "token": row["token"] + "b"} for row in rows]
        for copy in copies:
            for field in ("scene_token", "sample_token"):
                if field in copy:
                    copy[field] += "b"
        if name == "scene":
            copies[0]["name"] = "scene-0002"
        rewrite(root, name, rows + copies)
    return root


@pytest.mark.parametrize("scene", ["scene-0002", 1, "1"])
def test_a_scene_is_chosen_by_name_or_number(two_scenes: Path, scene: str | int) -> None:
    source = NuScenesSource(two_scenes, scene=scene)
    assert source.drive_id == "nuscenes/scene-0002"
    assert source.label_times_ns == ()
    assert "the scene is not annotated" in source.notes


def test_without_a_choice_the_first_scene_plays_and_the_others_are_named(two_scenes: Path) -> None:
    assert scenes(two_scenes) == ("synthetic-0", "scene-0002")
    source = NuScenesSource(two_scenes)
    assert source.drive_id == "nuscenes/synthetic-0"
    assert any("scene-0002" in note for note in source.notes)


@pytest.mark.parametrize("scene", ["scene-0003", 2, -1, "7"])
def test_an_unknown_scene_lists_the_known_ones(two_scenes: Path, scene: str | int) -> None:
    with pytest.raises(DriveError, match=r"no scene .* among its 2: synthetic-0, scene-0002"):
        NuScenesSource(two_scenes, scene=scene)


def test_versions_are_found_chosen_and_noted(root: Path) -> None:
    shutil.copytree(root / VERSION, root / "v1.0-mini")
    source = NuScenesSource(root)
    assert any("v1.0-mini are used" in note and VERSION in note for note in source.notes)
    assert NuScenesSource(root, version=VERSION).rig.calibration_hash() == source.rig.calibration_hash()
    assert next(m for m in NuScenesSource(root / VERSION).messages() if m.sensor == "LIDAR_TOP")
    with pytest.raises(DriveError, match=r"no tables of version 'v9'; there is v1.0-mini, v1.0-recorded"):
        NuScenesSource(root, version="v9")


def test_a_folder_without_tables_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DriveError, match="no folder with nuScenes tables"):
        NuScenesSource(tmp_path)
    with pytest.raises(DriveError, match="no such folder"):
        NuScenesSource(tmp_path / "gone")
