"""One drive of a fleet, from its address to its folder of results; everything that a worker does, without Ray."""

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perception.config.schema import ServiceConfig
from perception.core.errors import DriveError, ModelError, PayloadError, PerceptionError, UsageError
from perception.core.ports import Engine, Source
from perception.core.results import Detections, PerceptionResult
from perception.evaluation.detection import evaluate_detection
from perception.evaluation.frames import EvaluatedFrame
from perception.evaluation.scores import spread_ms
from perception.evaluation.truth import TruthCollector
from perception.pipeline.recording import result_format
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.resuming import new_run_id
from perception.recorders.mcap import McapRecorder
from perception.runtime.fleet.inputs import DriveRef
from perception.runtime.fleet.ledger import DONE, FAILED, sha256_of
from perception.runtime.fleet.remote import fetched
from perception.runtime.fleet.tables import ParquetTables
from perception.sources.open import open_drive

RESULTS_NAME, ACCOUNT_NAME, DRIVES_NAME = "results.mcap", "account.json", "drives"
PERMANENT: Final = (DriveError, UsageError, PayloadError, ModelError)
"""Errors that another attempt would meet again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveJob:
    """What a worker is told. out: the fleet's folder. run: names the run of the fleet, for whoever finds the results.

    attempt: from 1. cache: where remote drives are fetched to, None for the system's folder of temporary files.
    """

    drive: DriveRef
    config: ServiceConfig
    out: Path
    run: str
    attempt: int
    max_bytes: int
    cache: Path | None = None


Account = dict[str, Any]
"""What is known of a drive that was dealt with; a line of the ledger. `may_retry` says whether trying again makes
sense where it failed."""


def folder_of(out: Path, drive: DriveRef) -> Path:
    """Where a drive's results go: 256 folders of folders, since a million in one is slow everywhere."""
    return out / DRIVES_NAME / drive.name[-2:] / drive.name


def play_drive(job: DriveJob, engine: Engine) -> Account:
    """Play a drive and leave its results in its folder: all of them, or none. Errors become part of the account."""
    began = time.monotonic()
    base: Account = {"key": job.drive.key, "drive": job.drive.name, "source": job.drive.shown, "attempts": job.attempt}
    try:
        with (
            fetched(job.drive.path, max_bytes=job.max_bytes, cache=job.cache) as path,
            contextlib.closing(
                open_drive(path, format=job.drive.format, scene=job.drive.scene, latency=job.config.latency)
            ) as source,
            _whole_folder(folder_of(job.out, job.drive)) as folder,
        ):
            account = base | _play(source, engine, job.config, folder, job.drive.name)
            account |= {"run": job.run, "seconds": round(time.monotonic() - began, 3), "files": _files(folder)}
            (folder / ACCOUNT_NAME).write_text(json.dumps(account, allow_nan=False), encoding="utf-8")
    except Exception as error:  # whatever a drive does, the others go on
        return base | failure(error)
    return account


def failure(error: BaseException) -> Account:
    """The part of an account that tells of an error."""
    is_ours = isinstance(error, PerceptionError)
    return {
        "state": FAILED,
        "error": str(error) if is_ours else f"{type(error).__name__}: {error}",
        "may_retry": not isinstance(error, PERMANENT),
    }


def _play(source: Source, engine: Engine, config: ServiceConfig, folder: Path, name: str) -> Account:
    labelled = frozenset(source.label_times_ns)
    truth = TruthCollector(source, tuple(sorted(labelled))) if labelled else None
    found: dict[int, Detections] = {}
    latencies_ns: list[int] = []
    with contextlib.ExitStack() as stack:
        recorder = stack.enter_context(contextlib.closing(_recorder(source, folder)))
        tables = stack.enter_context(contextlib.closing(ParquetTables(folder, name)))

        def keep(result: PerceptionResult) -> None:
            recorder.write(result)
            tables.write(result)
            latencies_ns.append(result.provenance.stage_latency_ns.get("since_last_message", 0))
            if result.reference_ns in labelled:
                found[result.reference_ns] = result.detections

        summary = run_drive(
            source, engine, config,
            run_id=new_run_id(), on_result=keep, options=ReplayOptions(),
            on_message=None if truth is None else truth.observe,
        )  # fmt: skip
        if summary.end.reason != "completed":
            raise KeyboardInterrupt  # half a drive must not pass for a whole one
        recorder.write(summary.end)
    span = source.span_ns
    return {
        "state": DONE,
        "drive_id": source.drive_id,
        "frames": summary.end.count,
        "messages": summary.messages,
        "dropped": {cause: count for cause, count in sorted(summary.dropped.items()) if count},
        "span_s": None if span is None else round((span[1] - span[0]) / 1e9, 3),
        "latency_ms": spread_ms(latencies_ns),
        "metrics": None if truth is None else _metrics(source.drive_id, truth, found),
    }


def _metrics(drive_id: str, truth: TruthCollector, found: dict[int, Detections]) -> Account | None:
    """Detection figures over the labelled times, of what is published; without a result nothing was found."""
    known = truth.finish()
    frames = [
        EvaluatedFrame(
            drive_id=drive_id,
            reference_ns=time_ns,
            detections=found.get(time_ns, Detections.empty()),
            labels=labels,
            world_SE3_ego=known.poses.pose_at(time_ns),
        )
        for time_ns, labels in sorted(known.labels.items())
    ]
    if not frames:
        return None
    figures = evaluate_detection(frames).to_dict()
    return {
        "frames": len(frames),
        "missing_frames": len(known.labels.keys() - found.keys()),
        "mAP": figures["mean_ap_present"],
        "NDS": figures["nds_present"],
        "per_class": {
            name: {"AP": one["ap"], "labels": one["num_labels"]}
            for name, one in figures["per_class"].items()
            if one["num_labels"]
        },
    }


def _recorder(source: Source, folder: Path) -> McapRecorder:
    return McapRecorder(folder / RESULTS_NAME, source.rig, source.drive_id, notes=source.notes, results=result_format())


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}


@contextlib.contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder of a temporary name that gets its own at the end of the `with` block, and is gone after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    making.mkdir()
    try:
        yield making
        if target.exists():
            old = target.with_name(f"{making.name}.old")
            target.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        making.rename(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def sweep_unfinished(out: Path) -> None:
    """Remove what workers that are no more left half done."""
    for left in (out / DRIVES_NAME).glob("*/.*"):
        shutil.rmtree(left, ignore_errors=True)


def is_whole(out: Path, drive: DriveRef, account: Account, *, checksums: bool) -> bool:
    """Whether the files that an account names are there, by size or by checksum."""
    folder = folder_of(out, drive)
    for name, file in account["files"].items():
        path = folder / name
        if not path.is_file() or os.path.getsize(path) != file["bytes"]:  # noqa: PTH202 - follows is_file at once
            return False
        if checksums and sha256_of(path) != file["sha256"]:
            return False
    return True
