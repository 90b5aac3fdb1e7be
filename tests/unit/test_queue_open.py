"""Queues by URL: known and unknown schemes, third parties, and nothing imported before it is used."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from perception.core.errors import UsageError
from perception.core.results import EndOfRun
from perception.queues import memory
from perception.queues.open import ENTRY_POINTS, open_queue, subscribe


@pytest.mark.parametrize("url", ["carrier-pigeon:coop", "zenoh", "", ":results", "ZENOH:results"])
def test_an_unknown_url_lists_the_known_schemes(url: str) -> None:
    with pytest.raises(UsageError, match=r"memory:, zenoh:"):
        open_queue(url)
    with pytest.raises(UsageError, match=r"memory:, zenoh:"):
        subscribe(url)


def test_a_memory_queue_needs_a_name() -> None:
    with pytest.raises(UsageError, match="name"):
        open_queue("memory:")


@pytest.mark.parametrize("start", ["newest", -1, True, 1.0, None])
def test_another_start_is_wrong_use(start: object) -> None:
    with pytest.raises(UsageError, match="earliest"):
        subscribe("memory:start", start=start)  # type: ignore[arg-type]


def test_a_third_party_queue_joins_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="other", value=memory.__name__, group=ENTRY_POINTS)
    monkeypatch.setattr("perception.queues.open.entry_points", lambda group: [point] if group == ENTRY_POINTS else [])
    subscription = subscribe("other:third-party", timeout_s=10)
    queue = open_queue("other:third-party")
    end = EndOfRun(drive_id="drive", run_id="run", count=0, reason="completed")
    queue.publish(end)
    assert list(subscription) == [end]
    queue.close()


def test_opening_one_kind_of_queue_imports_no_other() -> None:
    script = (
        "import sys; from perception.queues.open import open_queue; "
        "open_queue('memory:x'); print('zenoh' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
