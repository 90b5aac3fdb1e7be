"""What the consumer's book must say after the kills."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tests.chaos.book import Entry

MAX_CUT_SHORT = 2
"""Reference times that may be open when a run is told to stop."""


def account(entries: Sequence[Entry], undisturbed: Sequence[str]) -> dict[str, Any]:
    """Count what is wrong in a book of replayed laps against the digests of an undisturbed one.

    lost: numbers missing below the last of a run, or below the count that its end states. doubled: more than once.
    changed: not what the undisturbed run says. cut_short: so too, but the last ones of a run that was told to stop,
    whose sensors had not all been heard. disordered: after a greater one of its run.
    """
    lost = doubled = changed = cut_short = disordered = ended = 0
    for run_id in dict.fromkeys(entry.run_id for entry in entries):
        run = [entry for entry in entries if entry.run_id == run_id]
        numbers = [entry.sequence for entry in run if entry.sequence is not None]
        ends = [entry.value for entry in run if entry.sequence is None]
        count = int(ends[0].split(" ")[0]) if ends else max(numbers, default=-1) + 1
        ended += bool(ends)
        lost += len(set(range(count)) - set(numbers))
        doubled += len(numbers) - len(set(numbers)) + max(0, len(ends) - 1)
        disordered += sum(later < earlier for earlier, later in pairwise(numbers))
        if any(end.endswith("completed") for end in ends):
            lost += abs(len(undisturbed) - count)
        differing = [n for entry in run if (n := entry.sequence) is not None and entry.value != undisturbed[n]]
        is_cut = any(end.endswith("interrupted") for end in ends)
        cut_short += sum(is_cut and number >= count - MAX_CUT_SHORT for number in differing)
        changed += sum(not is_cut or number < count - MAX_CUT_SHORT for number in differing)
    return {
        "runs": len({entry.run_id for entry in entries}),
        "runs_ended": ended,
        "results": sum(entry.sequence is not None for entry in entries),
        "restarts_reported": sum(entry.restarts for entry in entries),
        "lost": lost,
        "doubled": doubled,
        "disordered": disordered,
        "changed": changed,
        "cut_short": cut_short,
    }


def live_account(entries: Sequence[Entry], summaries: Sequence[Mapping[str, Any]], frames: int) -> dict[str, Any]:
    """What came of the frames of live laps: `summaries` are the accounts that the driver printed at the end of each.

    unaccounted: frames of complete laps that were neither published nor counted as dropped; a frame whose sweep was not
    read in time is no frame, and among the messages that count as `unread`. holes: numbers of published results that no
    consumer got.
    """
    laps = {summary["run_id"]: summary for summary in summaries if summary["reason"] == "completed"}
    unaccounted = holes = outage = overload = unread = 0
    for run_id, lap in laps.items():
        dropped = lap["dropped"]
        outage += dropped.get("outage", 0)
        overload += dropped.get("overload", 0)
        unread += dropped.get("unread", 0)
        missing = frames - lap["frames"] - dropped.get("outage", 0) - dropped.get("overload", 0)
        unaccounted += missing if missing < 0 else max(0, missing - dropped.get("unread", 0))
        got = {entry.sequence for entry in entries if entry.run_id == run_id and entry.sequence is not None}
        holes += lap["frames"] - len(got)
    results = [(entry.run_id, entry.sequence) for entry in entries if entry.sequence is not None]
    return {
        "laps": len(laps),
        "results": len(results),
        "doubled": len(results) - len(set(results)),
        "dropped_outage": outage,
        "dropped_overload": overload,
        "messages_unread": unread,
        "unaccounted": unaccounted,
        "holes": holes,
    }


def outages(kills: Mapping[str, Sequence[float]], entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """Seconds from each kill to the receipt of the next result that was published after it, by target."""
    table = {}
    for target, times_s in sorted(kills.items()):
        lasting = []
        for killed_s in times_s:
            after = [
                entry.received_s for entry in entries if entry.sequence is not None and entry.published_s > killed_s
            ]
            if after:
                lasting.append(min(after) - killed_s)
        if lasting:
            p50, worst = np.percentile(lasting, 50), max(lasting)
            table[target] = {"kills": len(lasting), "p50_s": round(float(p50), 3), "max_s": round(worst, 3)}
    return table
