"""The drives of a training run: found, made into frames where the store lacks them, and dealt out step by step."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch

from perception.config.schema import ModelConfig
from perception.config.training import DataConfig, TrainingConfig
from perception.core.errors import ConfigError, DriveError, PerceptionError
from perception.sources.nuscenes import scenes
from perception.sources.open import SOURCES, open_drive, path_exists
from perception.training.cleaning import Findings, Rule
from perception.training.collect import collect_frames
from perception.training.store import FORMAT, FrameStore, StoredDrive, stored_drive

Progress = Callable[[str], None]
"""Takes a line of text for the user."""

SCENE: Final = "#"
"""Between a path and the scene that is meant."""


SIMULATED: Final = "sim:"
_SEEDS: Final = re.compile(r"(?<=,)seed=(\d+)\.\.(\d+)(?=,|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveChoice:
    """One drive to learn from. scene: None where the path has one only. identity: what tells it from other drives."""

    path: str
    scene: str | None
    identity: str
    key: str

    def __str__(self) -> str:
        return self.path if self.scene is None else f"{self.path}{SCENE}{self.scene}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Frames to train on and to validate with, and what was wrong with the data of both."""

    train: FrameStore
    validation: FrameStore
    findings: Findings

    @property
    def counts(self) -> Counter[str]:
        """Bad data by the name of the rule that it breaks (`Rule`)."""
        return self.findings.counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    drive: DriveChoice
    model: ModelConfig
    config: TrainingConfig


def prepare(
    config: TrainingConfig, model: ModelConfig, *, progress: Progress, should_stop: Callable[[], bool] = lambda: False
) -> Prepared:
    """All frames of a run, read or rendered where the store does not hold them yet.

    A drive that cannot be made is named, counted and left out, and tried again in the next run. Raises ConfigError
    where a drive is both for training and for validation, DriveError where a path is wrong or no frame is left to train
    on, with what was found; KeyboardInterrupt where `should_stop` came true, with the drives under way made.
    """
    findings = Findings()
    train = find_drives(config.data.drives, config, model, findings)
    validation = find_drives(config.data.validation, config, model, findings)
    known = {drive.identity for drive in train}
    if both := [str(drive) for drive in validation if drive.identity in known]:
        raise ConfigError(f"data.validation: {', '.join(both)} is among data.drives too; take it out of one of them")
    failed = _make_missing([*train, *validation], config, model, progress, should_stop)
    for drive in [*train, *validation]:
        if drive.key in failed:
            findings.add(Rule.DRIVE_FAILED, f"{drive}: {failed[drive.key]}")
    prepared = Prepared(
        train=_sequence(config.data, train, failed),
        validation=_sequence(config.data, validation, failed),
        findings=findings,
    )
    notes: dict[str, str] = {}
    for stored in (*prepared.train.drives, *prepared.validation.drives):
        findings.merge(stored.findings)
        for note in stored.notes:
            notes.setdefault(note, f"{stored.path}: {note}")
    for line in (*notes.values(), *findings.lines()):
        progress(line)
    if not len(prepared.train):
        raise DriveError(f"data.drives: no frame to train on; {'; '.join(findings.lines()) or 'the drives are empty'}")
    return prepared


def find_drives(
    patterns: Iterable[str], config: TrainingConfig, model: ModelConfig, findings: Findings
) -> list[DriveChoice]:
    """The drives that patterns stand for, each once, in their order; all scenes of a nuScenes root unless one is named.

    Raises DriveError where a path does not exist or a pattern with * fits nothing, UsageError or ConfigError where a
    simulator's settings make no sense. A drive that is there but broken is counted in `findings`.
    """
    found: dict[str, DriveChoice] = {}
    for pattern in patterns:
        path, _, scene = pattern.partition(SCENE)
        for one in _fitting(path):
            try:
                drives = _drives_at(one, scene or None, config, model)
            except DriveError as error:
                if not path_exists(one):
                    raise
                findings.add(Rule.DRIVE_FAILED, f"{one}: {error}")
                continue
            for drive in drives:
                if drive.identity in found:
                    findings.add(Rule.DRIVE_AGAIN, str(drive))
                found.setdefault(drive.identity, drive)
    return list(found.values())


def sample_order(length: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Which of `length` frames make up the batch of a step (from 0).

    Each pass over the data is a permutation of its own, drawn from the seed and its number alone, and batches run on
    from one pass into the next: a resumed run sees the same batches. Raises ValueError without frames.
    """
    if length < 1:
        raise ValueError("there are no frames to draw a batch from")
    places = range(step * batch_size, (step + 1) * batch_size)
    passes = range(places[0] // length, places[-1] // length + 1)
    order = {number: np.random.default_rng([seed, number]).permutation(length) for number in passes}
    return [int(order[place // length][place % length]) for place in places]


def _fitting(pattern: str) -> list[str]:
    if seeds := _SEEDS.search(pattern):
        first, last = int(seeds[1]), int(seeds[2])
        if not pattern.startswith(SIMULATED) or last < first:
            raise ConfigError(f"{pattern}: seed=FIRST..LAST is for {SIMULATED} drives, from the lower to the higher")
        return [_SEEDS.sub(f"seed={seed}", pattern) for seed in range(first, last + 1)]
    if "*" not in pattern:
        return [pattern]
    path = Path(pattern)
    found = sorted(str(one) for one in Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise DriveError(f"{pattern}: no path fits; check data.drives and data.validation")
    return found


def _drives_at(path: str, scene: str | None, config: TrainingConfig, model: ModelConfig) -> list[DriveChoice]:
    names: Sequence[str | None] = (scene,)
    if SOURCES["nuscenes"].detect(path):
        known = scenes(path)
        is_number = scene is not None and scene not in known and scene.isdecimal() and int(scene) < len(known)
        names = known if scene is None else (known[int(scene)] if is_number else scene,)
    content = _content(Path(path)) if path_exists(path) else _description(path, scene)
    place = str(Path(path).resolve()) if path_exists(path) else content
    return [
        DriveChoice(
            path=path,
            scene=name,
            identity=f"{place}{SCENE}{name}",
            key=_key(path=path, scene=name, content=content, config=config, model=model),
        )
        for name in names
    ]


def _content(path: Path) -> str:
    """Names and sizes of the files of a drive, two folders deep: other files or tables are another drive.

    Times of change are left out, so that a copy counts as the same.
    """
    files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    listed = sorted(f"{file.relative_to(path)} {file.stat().st_size}" for file in files if file.is_file())
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _description(path: str, scene: str | None) -> str:
    """What a drive that is computed says of itself. Raises DriveError, ConfigError or UsageError as `open_drive`."""
    with closing(open_drive(path, scene=scene)) as source:
        return f"{source.drive_id} {source.rig.calibration_hash()} {source.label_times_ns}"


def _key(**parts: Any) -> str:
    """Names the frames of a drive: everything that decides what they are goes in."""
    config, model = parts.pop("config"), parts.pop("model")
    parts |= {
        "format": FORMAT,
        "image": [model.image.height_px, model.image.width_px],
        "points": [model.lidar.max_points, model.radar.max_points],
        "cells": [model.range_m, model.bev_cells],
        "path": [model.path_steps, model.path_step_s],
        "sync": config.sync.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", include={"reference", "every", "max_boxes"}),
    }
    if model.lidar.sweeps > 1:
        parts["sweeps"] = model.lidar.sweeps
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _make_missing(
    drives: Sequence[DriveChoice],
    config: TrainingConfig,
    model: ModelConfig,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> dict[str, str]:
    """Make what the store lacks. Returns what went wrong, by key of the drive."""
    folder = Path(config.data.store)
    missing = [drive for drive in drives if stored_drive(folder, drive.key) is None]
    if len(drives) > len(missing):
        progress(f"{len(drives) - len(missing)} of {len(drives)} drives are in {folder} already")
    tasks = [_Task(drive=drive, model=model, config=config) for drive in missing]
    failed: dict[str, str] = {}
    for number, (drive, outcome) in enumerate(_outcomes(tasks, config.data.workers), start=1):
        if isinstance(outcome, StoredDrive):
            progress(f"[{number}/{len(tasks)}] {drive}: {outcome.frames} frames")
        else:
            reason = str(outcome) if isinstance(outcome, PerceptionError) else repr(outcome)
            failed[drive.key] = reason.split("\n", 1)[0]
            progress(f"[{number}/{len(tasks)}] {drive}: left out, {failed[drive.key]}")
        if number < len(tasks) and should_stop():
            raise KeyboardInterrupt
    return failed


def _outcomes(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[DriveChoice, StoredDrive | Exception]]:
    """Each drive with what became of it, as they are done; an error of any kind ends its own drive only."""
    if not workers:
        for task in tasks:
            yield task.drive, _attempt(_make, task)
        return
    threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="drive")
    try:
        running = {threads.submit(_attempt, _make_in_process, task): task for task in tasks}
        for done in as_completed(running):
            yield running[done].drive, done.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _attempt(make: Callable[[_Task], StoredDrive], task: _Task) -> StoredDrive | Exception:
    try:
        return make(task)
    except Exception as error:  # whatever a drive's files do to its reader is reported as that drive's
        return error


def _make_in_process(task: _Task) -> StoredDrive:
    """In a process of its own: one that dies (memory, a library's crash) takes no other drive with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_use_one_thread) as process:
        return process.submit(_make, task).result()


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _make(task: _Task) -> StoredDrive:
    findings = Findings()
    with closing(open_drive(task.drive.path, scene=task.drive.scene)) as source:
        frames = collect_frames(source, task.model, task.config.data, task.config.sync, findings)
        return FrameStore(task.config.data.store, []).add(
            task.drive.key,
            frames,
            path=str(task.drive),
            drive_id=source.drive_id,
            notes=source.notes,
            findings=findings,
        )


def _sequence(data: DataConfig, drives: Sequence[DriveChoice], failed: dict[str, str]) -> FrameStore:
    return FrameStore(data.store, [drive.key for drive in drives if drive.key not in failed])
