"""A whole fleet replay: what is left to do goes to the cluster, what comes back into the ledger, and a summary."""

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perception.config.fleet import FleetConfig
from perception.config.schema import ServiceConfig
from perception.pipeline.stages import open_model
from perception.runtime.cluster import ray_cluster
from perception.runtime.fleet.cluster_work import Crew, ask_for_room, free_room
from perception.runtime.fleet.drive_job import (
    ACCOUNT_NAME,
    Account,
    DriveJob,
    folder_of,
    is_whole,
    sweep_unfinished,
)
from perception.runtime.fleet.inputs import DriveRef, expand
from perception.runtime.fleet.ledger import DONE, Finished, Ledger
from perception.runtime.fleet.scheduling import Ended, Overhead, schedule

Tell = Callable[[Account], None]


@dataclass(slots=True, kw_only=True)
class FleetCounts:
    """What one call of `run_fleet` did. skipped: drives that were done before. repeated: named more than once."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    repeated: int = 0
    overhead: Overhead = field(default_factory=Overhead)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What to play and where to. verify: check the checksums of what is there already, not only the sizes."""

    drives: Sequence[str]
    out: Path
    service: ServiceConfig
    fleet: FleetConfig
    address: str | None = None
    cache: Path | None = None
    verify: bool = False


def run_fleet(plan: FleetPlan, tell: Tell = lambda _: None) -> FleetCounts:
    """Play every drive that is not done yet; `tell` gets the account of each that ends.

    Memory does not grow with the number of drives, but for 8 bytes for each that was done before. Raises UsageError
    for drives that do not exist or settings other than those of the results there, ModelError, EngineError.
    """
    counts = FleetCounts()
    ledger = Ledger(plan.out, settings_of(plan.service))
    try:
        sweep_unfinished(plan.out)
        todo = _Todo(plan, ledger.done(), counts)
        first = next(todo, None)
        if first is not None:
            with ray_cluster(plan.address):
                _play(plan, ledger, _chain(first, todo), todo, counts, tell)
        sweep_unfinished(plan.out)
    finally:
        ledger.close()
    return counts


def settings_of(service: ServiceConfig) -> dict[str, Any]:
    """Whatever decides about results: settings, weights and release; not where it runs. Raises ModelError."""
    parts = service.model_dump(mode="json", include={"model", "sync", "tracker", "latency"})
    return parts | {"weights": open_model(service.model).info.hash, "release": version("perception")}


def _play(
    plan: FleetPlan, ledger: Ledger, drives: Iterator[DriveRef], todo: "_Todo", counts: FleetCounts, tell: Tell
) -> None:
    crew = Crew(plan.fleet, plan.service)
    if plan.address is not None:
        ask_for_room(plan.fleet, crew.cpus)

    def begin(drive: DriveRef, attempt: int) -> Any:
        return crew.begin(
            DriveJob(
                drive=drive,
                config=plan.service,
                out=plan.out.resolve(),
                run=todo.run,
                attempt=attempt,
                max_bytes=round(plan.fleet.max_drive_gb * 1e9),
                cache=plan.cache,
            )
        )

    try:
        for end in schedule(
            drives, begin,
            in_flight=crew.in_flight, attempts=plan.fleet.attempts, overhead=counts.overhead, ended=crew.ended,
        ):  # fmt: skip
            account = _account(end)
            ledger.append(account)
            todo.underway.discard(end.drive.name)
            if account["state"] == DONE:
                counts.done += 1
            else:
                counts.failed += 1
            tell(account)
    finally:
        crew.close()
        if plan.address is not None:
            free_room()


def _account(end: Ended[DriveRef]) -> Account:
    """The line for the ledger, also where no account came back."""
    base: Account = {"key": end.drive.key, "drive": end.drive.name, "source": end.drive.shown, "attempts": end.attempt}
    if end.account is not None:
        return {name: value for name, value in (base | end.account).items() if name != "may_retry"}
    return base | {"state": "failed", "error": str(end.error)}


class _Todo:
    """The drives that are still to be played, as they are asked for. run: names this run in the results' accounts."""

    def __init__(self, plan: FleetPlan, done: Finished, counts: FleetCounts) -> None:
        self._plan = plan
        self._done = done
        self._counts = counts
        self._drives = expand(plan.drives)
        self.run = secrets.token_hex(8)
        self.underway: set[str] = set()

    def __iter__(self) -> "_Todo":
        return self

    def __next__(self) -> DriveRef:
        while True:
            drive = next(self._drives)
            account = self._account_there(drive)
            if drive.name in self.underway or (account is not None and account["run"] == self.run):
                self._counts.repeated += 1
            elif (
                account is not None
                and drive.key in self._done
                and is_whole(self._plan.out, drive, account, checksums=self._plan.verify)
            ):
                self._counts.skipped += 1
            else:
                self.underway.add(drive.name)
                return drive

    def _account_there(self, drive: DriveRef) -> Account | None:
        """What the drive's folder says of itself, None where there is none."""
        try:
            found: Account = json.loads((folder_of(self._plan.out, drive) / ACCOUNT_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found


def _chain(first: DriveRef, rest: Iterator[DriveRef]) -> Iterator[DriveRef]:
    yield first
    yield from rest
