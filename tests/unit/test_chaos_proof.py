"""The proof must fail on each fault that it claims to exclude."""

import pytest

from tests.chaos.book import Entry
from tests.chaos.proof import account, live_account, outages

WHOLE = [f"digest-{number}" for number in range(4)]


def result(sequence: int, value: str | None = None, run_id: str = "a", at_s: float = 0.0) -> Entry:
    return Entry(run_id, sequence, value or WHOLE[sequence], 0, 0, 0, at_s, at_s + 0.1)


def end(value: str = "4 completed", run_id: str = "a") -> Entry:
    return Entry(run_id, None, value, 0, 0, 0, 0.0, 0.0)


GOOD = [*(result(number) for number in range(4)), end()]
FAULTS = ("lost", "doubled", "changed", "disordered", "cut_short")


@pytest.mark.parametrize(
    ("book", "faults"),
    [
        (GOOD, {}),
        ([*GOOD, result(0, run_id="b"), end("1 interrupted", "b")], {}),
        ([*GOOD, result(0, run_id="b")], {}),
        (GOOD[1:], {"lost": 1}),
        ([*GOOD[:3], GOOD[4]], {"lost": 1}),
        ([*GOOD[:3], end("3 completed")], {"lost": 1}),
        ([*GOOD, GOOD[2]], {"doubled": 1, "disordered": 1}),
        ([*GOOD, end()], {"doubled": 1}),
        ([GOOD[1], GOOD[0], *GOOD[2:]], {"disordered": 1}),
        ([result(0, "other"), *GOOD[1:]], {"changed": 1}),
        ([*GOOD[:3], result(3, "other"), end()], {"changed": 1}),
        ([*GOOD[:3], result(3, "other"), end("4 interrupted")], {"cut_short": 1}),
        ([result(0, "other"), *GOOD[1:4], end("4 interrupted")], {"changed": 1}),
    ],
)
def test_each_fault_is_counted(book: list[Entry], faults: dict[str, int]) -> None:
    found = account(book, WHOLE)
    assert {name: found[name] for name in FAULTS if found[name]} == faults


def test_live_frames_are_accounted_for() -> None:
    dropped = {"outage": 1, "overload": 1}
    lap = {"run_id": "a", "reason": "completed", "frames": 2, "dropped": dropped}
    book = [result(0), result(1)]
    good = live_account(book, [lap], 4)
    assert (good["unaccounted"], good["holes"], good["doubled"]) == (0, 0, 0)
    assert live_account(book, [lap], 5)["unaccounted"] == 1
    assert live_account(book, [lap], 3)["unaccounted"] == -1
    late = lap | {"dropped": {**dropped, "unread": 4}}
    assert [live_account(book, [late], frames)["unaccounted"] for frames in (3, 5, 8, 9)] == [-1, 0, 0, 1]
    assert live_account(book[:1], [lap], 4)["holes"] == 1
    assert live_account([*book, book[1]], [lap], 4)["doubled"] == 1


def test_an_outage_lasts_until_a_result_that_is_younger_than_the_kill() -> None:
    book = [result(0, at_s=10.0), result(1, at_s=11.5), result(2, at_s=12.0)]
    assert outages({"engine": [10.05, 11.6]}, book) == {"engine": {"kills": 2, "p50_s": 1.025, "max_s": 1.55}}
