"""The order in which drives begin, begin again and end, with a cluster that is made up."""

import gc
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.exceptions import WorkerCrashedError

from perception.runtime.fleet import scheduling
from perception.runtime.fleet.scheduling import Overhead, schedule
from tests.conftest import PROJECT_ROOT


class Account(dict[str, Any]):
    """A dictionary that can be watched."""


class FakeRay:
    """Ends the oldest call first; keeps no results."""

    def __init__(self) -> None:
        self.underway: dict[int, Any] = {}
        self.most = 0
        self.cancelled: list[int] = []
        self._numbers = iter(range(10**9))

    def start(self, outcome: Any) -> int:
        number = next(self._numbers)
        self.underway[number] = outcome
        self.most = max(self.most, len(self.underway))
        return number

    def wait(self, refs: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return [min(refs)], []

    def get(self, ref: int) -> Any:
        outcome = self.underway.pop(ref)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, ref: int, *, force: bool) -> None:
        self.cancelled.append(ref)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(scheduling, "ray", made)
    return made


def test_so_many_at_once_and_nothing_is_kept(fake: FakeRay) -> None:
    asked = 0

    def drives() -> Any:
        nonlocal asked
        for number in range(5_000):
            asked = number
            yield number

    def begin(drive: int, attempt: int) -> int:
        return fake.start(Account(drive=drive))

    accounts: list[weakref.ref[Any]] = []
    count = 0
    for end in schedule(drives(), begin, in_flight=8, attempts=3):
        assert end.account is not None
        assert asked <= count + 8  # read only as far as needed
        count += 1
        accounts.append(weakref.ref(end.account))
        if count == 4_000:
            gc.collect()
            assert sum(account() is not None for account in accounts) <= 2
    assert (count, fake.most) == (5_000, 8)


def test_retries_are_bounded_and_only_for_what_may_get_better(fake: FakeRay) -> None:
    begun: Counter[str] = Counter()
    closed: Counter[str] = Counter()

    def begin(drive: str, attempt: int) -> int:
        begun[drive] += 1
        assert begun[drive] == attempt
        if drive == "dies twice" and attempt <= 2:
            return fake.start(WorkerCrashedError())
        if drive == "dies":
            return fake.start(WorkerCrashedError())
        if drive == "full disk":
            return fake.start({"state": "failed", "may_retry": attempt < 2})
        return fake.start({"state": "failed" if drive == "broken" else "done"})

    names = ["fine", "dies twice", "dies", "full disk", "broken"]
    overhead = Overhead()
    ends = {
        end.drive: end
        for end in schedule(
            names, begin, in_flight=2, attempts=3, overhead=overhead, ended=lambda drive: closed.update([drive])
        )
    }
    assert begun == closed == Counter({"fine": 1, "dies twice": 3, "dies": 3, "full disk": 2, "broken": 1})
    assert (overhead.drives, overhead.retries) == (5, 5)
    assert ends["dies twice"].account == {"state": "done"}
    assert ends["dies"].account is None
    assert "WorkerCrashedError" in str(ends["dies"].error)


def test_what_is_under_way_is_cancelled_when_nobody_listens_any_more(fake: FakeRay) -> None:
    running = schedule(range(10), lambda drive, _: fake.start({"drive": drive}), in_flight=3, attempts=1)
    next(running)
    running.close()
    assert fake.cancelled == [1, 2]


def test_the_rayjob_has_the_fields_that_kuberay_asks_for() -> None:
    job = yaml.safe_load((PROJECT_ROOT / "docs" / "fleet" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["name"]
    spec = job["spec"]
    assert spec["entrypoint"].startswith("perception fleet ")
    assert "--address auto" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert {"name", "image", "resources", "volumeMounts"} <= container.keys()
        assert isinstance(group["rayStartParams"], dict)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        out = Path(spec["entrypoint"].split("--out ")[1].split()[0])
        assert out.is_relative_to(mounts["results"])
        assert not any("SECRET" in str(one) or "value" in one for one in container.get("env", []))
    for group in cluster["workerGroupSpecs"]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert any("nvidia.com/gpu" in str(group) for group in cluster["workerGroupSpecs"])
