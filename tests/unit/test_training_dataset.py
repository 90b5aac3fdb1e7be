"""Drives of a training run: which are meant, what names their frames, and in what order frames are dealt out."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from perception.config.schema import ImageConfig, ModelConfig
from perception.config.training import DataConfig, TrainingConfig
from perception.core.errors import ConfigError, DriveError, UsageError
from perception.sources.synthetic import SyntheticSource
from perception.training.cleaning import Findings, Rule
from perception.training.dataset import DriveChoice, find_drives, prepare, sample_order
from perception.training.store import FrameStore
from tests.model_samples import TINY
from tests.unit.nuscenes_roots import VERSION, record, small_rig, table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nuScenes root with two scenes that share everything but their names, and one keyframe."""
    folder = tmp_path_factory.mktemp("drives") / "one"
    record(SyntheticSource(seed=2, duration_s=0.4, rig=small_rig()), folder)
    rows = table(folder, "scene")
    rows.append({**rows[0], "name": "another", "token": "f" * 32})
    (folder / VERSION / "scene.json").write_text(json.dumps(rows))
    return folder


def config(drives: tuple[str, ...], **data: object) -> TrainingConfig:
    values = {"drives": drives, "store": "nowhere", "workers": 0} | data
    return TrainingConfig(name="test", data=DataConfig.model_validate(values))


def find(*patterns: str, model: ModelConfig = TINY, **data: object) -> tuple[list[DriveChoice], Findings]:
    findings = Findings()
    return find_drives(patterns, config(patterns, **data), model, findings), findings


def test_all_scenes_are_taken_unless_one_is_named(root: Path) -> None:
    drives, _ = find(str(root))
    assert [drive.scene for drive in drives] == ["synthetic-2", "another"]
    assert [drive.scene for drive in find(f"{root}#another")[0]] == ["another"]
    assert [drive.scene for drive in find(f"{root}#1")[0]] == ["another"]
    assert len({drive.key for drive in drives}) == 2


def test_a_pattern_stands_for_all_that_fit_and_a_drive_counts_once(root: Path) -> None:
    drives, findings = find(str(root.parent / "o*"), str(root / ".." / "one"), f"{root}#0")
    assert [drive.scene for drive in drives] == ["synthetic-2", "another"]
    assert findings.counts == {Rule.DRIVE_AGAIN.value: 3}


def test_wrong_paths_and_settings_are_errors_that_name_them(root: Path) -> None:
    with pytest.raises(DriveError, match=r"nothing\*: no path fits"):
        find(str(root.parent / "nothing*"))
    with pytest.raises(DriveError, match="nowhere: no such file"):
        find(str(root.parent / "nowhere"))
    with pytest.raises(UsageError, match="unknown setting 'sed'"):
        find("synthetic:sed=1")


def test_a_broken_drive_is_counted_and_the_others_are_found(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "a")
    shutil.copytree(root, tmp_path / "b")
    (tmp_path / "a" / VERSION / "scene.json").write_text("[{")
    drives, findings = find(str(tmp_path / "*"))
    assert [Path(drive.path).name for drive in drives] == ["b", "b"]
    assert findings.counts == {Rule.DRIVE_FAILED.value: 1}
    assert "scene.json: not valid JSON" in findings.examples[Rule.DRIVE_FAILED.value][0]


def test_whatever_decides_what_the_frames_are_is_in_the_key(root: Path, tmp_path: Path) -> None:
    def key(folder: Path = root, model: ModelConfig = TINY, **data: object) -> str:
        return find(f"{folder}#another", model=model, **data)[0][0].key

    wide = ImageConfig(width_px=704)
    different = [
        key(),
        key(every=2),
        key(max_boxes=5),
        key(reference="keyframes"),
        key(model=TINY.model_copy(update={"image": wide})),
        key(model=TINY.model_copy(update={"path_steps": 8})),
        key(model=TINY.model_copy(update={"lidar": TINY.lidar.model_copy(update={"pillar_m": 0.4})})),
        find(f"{root}#synthetic-2")[0][0].key,
    ]
    assert len(set(different)) == len(different)
    assert key(workers=5) == key(store="elsewhere") == key(model=TINY.model_copy(update={"width": 192})) == key()
    changed = tmp_path / "changed"
    shutil.copytree(root, changed)
    before = key(changed)
    annotations = changed / VERSION / "sample_annotation.json"
    annotations.write_text(annotations.read_text() + " ")
    assert key(changed) != before


def test_computed_drives_differ_by_what_they_compute() -> None:
    paths = ("synthetic:seed=1,duration=1", "synthetic:seed=1,duration=2", "synthetic:seed=2,duration=1")
    drives, _ = find(*paths)
    assert len({drive.key for drive in drives}) == len(drives) == 3
    same, findings = find("sim:tiny,seed=3,duration_s=2", "sim:tiny,duration_s=2,seed=3")
    assert len(same) == 1
    assert findings.counts == {Rule.DRIVE_AGAIN.value: 1}


def test_a_range_of_seeds_stands_for_a_drive_with_each(root: Path) -> None:
    drives, _ = find("sim:tiny,seed=7..9,duration_s=2")
    assert [drive.path for drive in drives] == [f"sim:tiny,seed={seed},duration_s=2" for seed in (7, 8, 9)]
    assert [drive.path for drive in find("sim:,seed=4..4")[0]] == ["sim:,seed=4"]
    for wrong in ("sim:tiny,seed=9..7", f"{root},seed=1..2"):
        with pytest.raises(ConfigError, match=r"seed=FIRST\.\.LAST"):
            find(wrong)


def test_a_drive_may_not_be_trained_on_and_validated_with(root: Path) -> None:
    settings = config((str(root),), validation=(f"{root / '..' / 'one'}#another",))
    with pytest.raises(ConfigError, match=r"data.validation: .*one#another is among data.drives too"):
        prepare(settings, TINY, progress=print)


def test_prepare_makes_what_is_missing_and_names_what_is_broken(root: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(root, bare)
    (bare / VERSION / "sample_annotation.json").write_text("[]")
    odd = tmp_path / "odd"
    shutil.copytree(root, odd)
    (odd / VERSION / "sample_data.json").write_text("[]")
    lines: list[str] = []
    settings = config(
        (f"{root}#0", f"{bare}#0", f"{odd}#0"),
        store=str(tmp_path / "store"),
        validation=("synthetic:seed=9,duration=0.2",),
        max_boxes=3,
    )
    prepared = prepare(settings, TINY, progress=lines.append)
    assert len(prepared.train) == len(prepared.validation) == 1
    assert len(prepared.train[0].class_index) <= 3
    assert prepared.counts[Rule.DRIVE_WITHOUT_LABELS.value] == 1
    assert prepared.counts[Rule.DRIVE_FAILED.value] == 1
    assert prepared.counts[Rule.TOO_MANY.value] > 1
    text = "\n".join(lines)
    assert re.search(r"odd#synthetic-2: left out, .*sample_data.json: no row belongs to", text)
    assert "1 x drive without labels: nuscenes/synthetic-2" in text

    lines.clear()
    again = prepare(settings, TINY, progress=lines.append)
    assert lines[0].startswith("3 of 4 drives are in")
    assert again.counts == prepared.counts
    assert again.train.data_hash == prepared.train.data_hash
    np.testing.assert_array_equal(again.train[0].images, prepared.train[0].images)


def test_who_stops_keeps_the_drives_that_are_made(root: Path, tmp_path: Path) -> None:
    asked = config((str(root),), store=str(tmp_path / "frames"))
    with pytest.raises(KeyboardInterrupt):
        prepare(asked, TINY, progress=lambda _: None, should_stop=lambda: True)
    assert len(FrameStore(tmp_path / "frames").keys) == 1, "one of the two scenes was under way"
    told: list[str] = []
    prepare(asked, TINY, progress=told.append)
    assert told[0].startswith("1 of 2 drives are in ")


def test_nothing_to_train_on_is_an_error_that_says_why(root: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(root, bare)
    (bare / VERSION / "sample_annotation.json").write_text("[]")
    with pytest.raises(DriveError, match="no frame to train on; 1 x drive without labels"):
        prepare(config((f"{bare}#0",), store=str(tmp_path / "store")), TINY, progress=print)


def test_a_store_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DriveError, match=r"file.*choose another data\.store"):
        prepare(config((str(root),), store=str(tmp_path / "file" / "store")), TINY, progress=print)


def test_each_pass_shows_every_frame_once_and_batches_run_on() -> None:
    length, size = 10, 4
    dealt = [index for step in range(15) for index in sample_order(length, step, size, seed=3)]
    passes = [dealt[i * length : (i + 1) * length] for i in range(6)]
    assert all(sorted(one) == list(range(length)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6


def test_the_batch_of_a_step_depends_on_the_step_and_the_seed_alone() -> None:
    assert sample_order(100, 37, 8, seed=1) == sample_order(100, 37, 8, seed=1)
    assert sample_order(100, 37, 8, seed=1) != sample_order(100, 37, 8, seed=2)
    assert sample_order(100, 0, 8, seed=1) + sample_order(100, 1, 8, seed=1) == sample_order(100, 0, 16, seed=1)


def test_few_frames_fill_a_large_batch_by_coming_again() -> None:
    order = sample_order(3, 0, 8, seed=0)
    assert sorted(order[:3]) == sorted(order[3:6]) == [0, 1, 2]
    with pytest.raises(ValueError, match="no frames"):
        sample_order(0, 0, 8, seed=0)


def test_a_sequence_without_drives_is_empty(tmp_path: Path) -> None:
    assert len(FrameStore(tmp_path / "none", [])) == 0
