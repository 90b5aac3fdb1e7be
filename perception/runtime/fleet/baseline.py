"""Two fleets beside each other: what each drive and each class gained or lost, and whether that is more than chance.

The drives are the sample: the mean difference gets an interval by the paired bootstrap over drives (Efron and
Tibshirani 1993, percentile interval).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.config.fleet import BaselineConfig
from perception.core.errors import UsageError
from perception.runtime.fleet.ledger import DONE, LEDGER_NAME, read_header, read_latest
from perception.runtime.fleet.summary import figures_of

F64 = NDArray[np.float64]

MIN_DRIVES: Final = 6
"""With fewer an interval over drives says nothing: the tolerance alone decides."""
WORST: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one figure changed. low, high: the interval of the mean change; None with fewer than `MIN_DRIVES` drives.

    p: two-sided, of no change. is_worse: it fell by more than the tolerance, and by more than chance.
    """

    drives: int
    before: float
    now: float
    change: float
    low: float | None
    high: float | None
    p: float | None
    is_worse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDiff:
    """The account of a comparison. worst: the drives whose mAP fell most, by source. newly_failed: done before, failed
    now. only_before, only_now: drives that one fleet alone has done. notes: settings that differ."""

    drives: int
    changes: Mapping[str, Change]
    worst: Mapping[str, float]
    newly_failed: tuple[str, ...]
    only_before: int
    only_now: int
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        return bool(self.newly_failed) or any(change.is_worse for change in self.changes.values())

    def to_dict(self) -> dict[str, Any]:
        return {"is_worse": self.is_worse, **asdict(self)}


def compare_fleets(before: Path, now: Path, config: BaselineConfig) -> FleetDiff:
    """Compare the fleet in folder `now` with the one in `before`, over the drives that both have done.

    Raises UsageError where one has no ledger, or they have no drive in common.
    """
    first, second = _Fleet(before), _Fleet(now)
    common = sorted(first.figures.keys() & second.figures.keys())
    if not common:
        raise UsageError(f"{before} and {now} have no drive in common; give both the same DRIVES")
    names = sorted({name for key in common for name in first.figures[key].keys() & second.figures[key].keys()})
    changes, worst = {}, dict[str, float]()
    for index, name in enumerate(names):
        paired = [key for key in common if name in first.figures[key] and name in second.figures[key]]
        values = np.array([(first.figures[key][name], second.figures[key][name]) for key in paired])
        changes[name] = _change(values, config, np.random.default_rng([config.seed, index]))
        if name == "mAP":
            fall = values[:, 1] - values[:, 0]
            order = [at for at in np.argsort(fall, kind="stable")[:WORST].tolist() if fall[at] < 0]
            worst = {second.sources[paired[at]]: round(float(fall[at]), 6) for at in order}
    newly_failed = [second.failed[key] for key in sorted(first.figures.keys() & second.failed.keys())]
    return FleetDiff(
        drives=len(common),
        changes=changes,
        worst=worst,
        newly_failed=tuple(newly_failed),
        only_before=len(first.figures.keys() - second.figures.keys()),
        only_now=len(second.figures.keys() - first.figures.keys()),
        notes=_notes(first.settings, second.settings),
    )


class _Fleet:
    """What the ledger of a fleet says. figures: by drive that is done, empty where it is not labelled."""

    def __init__(self, folder: Path) -> None:
        ledger = folder / LEDGER_NAME
        self.settings: dict[str, Any] = read_header(ledger)["settings"]
        self.figures: dict[int, dict[str, float]] = {}
        self.sources: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        for record in read_latest(ledger):
            if record["state"] == DONE:
                self.figures[record["key"]] = figures_of(record["metrics"]) if record["metrics"] else {}
                self.sources[record["key"]] = record["source"]
            else:
                self.failed[record["key"]] = record["source"]


def _change(values: F64, config: BaselineConfig, rng: np.random.Generator) -> Change:
    """values: (N, 2) of each drive, before and now."""
    difference = values[:, 1] - values[:, 0]
    mean = float(difference.mean())
    low, high, p = bootstrap(difference, config, rng) if len(values) >= MIN_DRIVES else (None, None, None)
    before, now = values.mean(axis=0).tolist()
    return Change(
        drives=len(values),
        before=round(before, 6),
        now=round(now, 6),
        change=round(mean, 6),
        low=low,
        high=high,
        p=p,
        is_worse=mean < -config.tolerance and (high is None or high < 0),
    )


def bootstrap(difference: F64, config: BaselineConfig, rng: np.random.Generator) -> tuple[float, float, float]:
    """Interval of the mean of differences (N,), and the two-sided p of a mean of 0."""
    means = np.array([difference[rng.integers(len(difference), size=len(difference))].mean()
                      for _ in range(config.resamples)])  # fmt: skip
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # One more than counted, so that no p is 0 (Davison and Hinkley 1997, section 4.2).
    p = 2 * (1 + min(np.sum(means <= 0), np.sum(means >= 0))) / (1 + config.resamples)
    return round(float(low), 6), round(float(high), 6), round(min(1.0, float(p)), 6)


def _notes(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {before.get(name)}, then {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )
