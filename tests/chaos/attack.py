"""Random kills, one after the other, each when the service has shown that it works again."""

import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.config.schema import QueueSecurity
from perception.queues.broker import parse_address
from perception.queues.broker_queue import item_key
from perception.queues.codec import decode
from perception.queues.nats import PORT
from perception.queues.nats_feed import NatsFeed
from perception.queues.subscription import Reading
from tests.chaos.book import Book, Entry
from tests.chaos.crew import Crew
from tests.chaos.drive import write_drive
from tests.chaos.proof import account, live_account, outages

PATIENT = ("--set", "runtime.supervision.silent_after_s=4")
"""A replay can wait; killing an engine that is only slow would cost time and prove nothing."""
PATIENCE_S = 240.0
"""How long a service may take to come back, on a machine that does other things too."""


def attack(
    folder: Path,
    *,
    placement: str,
    targets: Sequence[str],
    kills: int,
    seed: int,
    frames: int,
    live: bool = False,
    undisturbed: Sequence[str] = (),
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Kill `kills` processes, `targets` in an order drawn from `seed`, and prove what came of it.

    A live service has a spare driver. `undisturbed`: digests of a lap's results (`undisturbed_lap`), for a
    replay. Raises AssertionError where the service does not come back.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    drive = folder / "drive.mcap"
    write_drive(drive, frames, seed=0)
    crew = Crew(folder, drive, placement, [*(("--live",) if live else PATIENT), *options], standby=live)
    book = Book(crew.book)
    times: dict[str, list[float]] = defaultdict(list)
    order = [targets[i % len(targets)] for i in range(kills)]
    rng.shuffle(order)
    try:
        crew.start()
        _await_news(crew, book, 0)
        for target in order:
            time.sleep(rng.uniform(0.0, 1.0))
            known = len(book.entries())
            times[target].append(_kill(crew, target, rng))
            _await_news(crew, book, max(known, len(book.entries())))
        code = crew.stop()
        entries = _settled(book)
        stored = stored_twice(crew.url)
    finally:
        crew.close()
    report: dict[str, Any] = {
        "placement": placement,
        "mode": "live" if live else "replay",
        "kills": dict(sorted(Counter({target: len(when) for target, when in times.items()}).items())),
        "service_restarts": crew.log.read_text().count("replay was killed"),
        "exit_code": code,
    }
    again = crew.book.with_suffix(".again")
    report |= live_account(entries, _summaries(crew.log), frames) if live else account(entries, undisturbed)
    report |= {"stored_twice": stored, "redelivered": len(again.read_text()) if again.exists() else 0}
    report["outage"] = outages(times, entries)
    return report


def undisturbed_lap(folder: Path, *, placement: str, frames: int, options: Sequence[str] = ()) -> list[str]:
    """Digests of the results of a lap in which nothing is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    drive = folder / "drive.mcap"
    write_drive(drive, frames, seed=0)
    crew = Crew(folder, drive, placement, [*PATIENT, *options])
    book = Book(crew.book)
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        crew.start()
        while not any(entry.sequence is None for entry in book.entries()):
            crew.check()
            assert time.monotonic() < deadline_s, "no lap was finished"
            time.sleep(0.2)
    finally:
        crew.close()
    first = book.entries()[0].run_id
    return [entry.value for entry in book.entries() if entry.run_id == first and entry.sequence is not None]


def stored_twice(url: str) -> int:
    """How many items the broker has more than once."""
    feed = NatsFeed(parse_address("nats", url.removeprefix("nats:"), PORT), QueueSecurity(), Reading())
    keys: Counter[str] = Counter()
    try:
        while (delivery := feed.receive(5.0)) is not None:
            keys[item_key(decode(delivery.payload))] += 1
    finally:
        feed.close()
    return sum(count - 1 for count in keys.values())


def _kill(crew: Crew, target: str, rng: random.Random) -> float:
    """Kill it as soon as it is there, and say when. News may be of what came before the last kill, so that a driver or
    an engine can still be on its way back."""
    choice = rng.randrange(1000) if target.endswith("engine") else 0
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        killed_s = time.time()
        if _strike(crew, target, choice):
            return killed_s
        crew.check()
        assert time.monotonic() < deadline_s, f"there was no {target} for {PATIENCE_S:g} s"
        time.sleep(0.02)


def _strike(crew: Crew, target: str, choice: int) -> bool:
    if target.endswith("engine"):
        stops = target.startswith("hung")
        return crew.signal("engine", signal.SIGSTOP if stops else signal.SIGKILL, choice)
    return crew.kill(target)


def _await_news(crew: Crew, book: Book, known: int) -> None:
    """Until the consumer has dealt with something new."""
    deadline_s = time.monotonic() + PATIENCE_S
    while len(book.entries()) <= known:
        crew.check()
        assert time.monotonic() < deadline_s, f"nothing came for {PATIENCE_S:g} s\n{crew.log.read_text()[-3000:]}"
        time.sleep(0.02)


def _settled(book: Book) -> list[Entry]:
    """The book once the end of the last run is in it."""
    deadline_s = time.monotonic() + PATIENCE_S
    while book.entries()[-1].sequence is not None:
        assert time.monotonic() < deadline_s, "the end of the last run did not come"
        time.sleep(0.1)
    return book.entries()


def _summaries(log: Path) -> list[dict[str, Any]]:
    """The accounts of laps among what the driver printed."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"drive_id"')]
