"""The fault matrix, in its quick form: every simulated fault is found, and the same seed says the same twice."""

from typing import Any

import pytest

from perception.cli.bench_faults import FAULTS, as_markdown, fault_report

pytest.importorskip("libsumo")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return fault_report(quick=True, seed=500, threads=2)


SLOW = "camera turned 3 deg"
"""A turned mount shows over many sweeps only: the quick form's one short drive may end before it does."""


def test_every_fault_is_found_after_it_begins(report: dict[str, Any]) -> None:
    rows = report["faults"]
    assert [row["fault"] for row in rows] == [name for name, *_ in FAULTS]
    assert {row["fault"] for row in rows if row["found"] != row["drives"]} <= {SLOW}
    delays = {row["fault"]: row["delay_s"]["median"] for row in rows if row["found"]}
    assert all(0 <= delay_s < (12 if fault == SLOW else 5) for fault, delay_s in delays.items())


def test_nothing_is_found_where_nothing_is_wrong(report: dict[str, Any]) -> None:
    assert [row["alarms"] for row in report["false_alarms"]] == [[]]


def test_the_tables_name_every_fault(report: dict[str, Any]) -> None:
    text = as_markdown(report)
    assert all(f"| {name} | 1 of 1 |" in text for name, *_ in FAULTS if name != SLOW)
    assert f"| {SLOW} | " in text
