"""A fleet says of each drive what a single replay says, also when nodes die and processes are killed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from perception.config.fleet import FleetConfig
from perception.config.schema import ServiceConfig
from perception.core.results import PerceptionResult
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.queues.open import subscribe
from perception.runtime.fleet.drive_job import folder_of
from perception.runtime.fleet.inputs import DriveRef
from perception.runtime.fleet.ledger import LEDGER_NAME, read_latest
from perception.runtime.fleet.run import FleetPlan, run_fleet
from perception.sources.open import open_drive
from tests.integration.conftest import Perception, Start
from tests.results_alike import assert_same_results

pytestmark = pytest.mark.ray
SERVICE = ServiceConfig()
STORE_BYTES = 100 * 2**20
SHORT = "synthetic:seed=0,duration=0.3"
DRIVES = [SHORT, *(f"synthetic:seed={seed},duration=0.7" for seed in range(1, 5))]


def alone(path: str) -> list[PerceptionResult]:
    results: list[PerceptionResult] = []
    engine = LocalEngine(open_model(SERVICE.model), threads=1)
    source = open_drive(path)
    run_drive(source, engine, SERVICE, run_id="r", on_result=results.append, options=ReplayOptions())
    source.close()
    return results


def of_fleet(out: Path, drive: DriveRef) -> list[PerceptionResult]:
    path = folder_of(out, drive) / "results.mcap"
    return [item for item in subscribe(f"mcap:{path}", timeout_s=10) if isinstance(item, PerceptionResult)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes, real raylets: a head without room, and two with room for one drive each."""
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=STORE_BYTES)
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_node_that_is_killed_costs_nothing_but_time(cluster: Cluster, tmp_path: Path) -> None:
    killed: list[str] = []

    def kill_another(account: dict[str, Any]) -> None:
        if not killed:
            victim = next(node for node in cluster.worker_nodes if node.node_id != account["node"])
            killed.append(victim.node_id)
            cluster.remove_node(victim, allow_graceful=False)

    plan = FleetPlan(
        drives=DRIVES, out=tmp_path, service=SERVICE, fleet=FleetConfig(workers=2), address=cluster.address
    )
    counts = run_fleet(plan, kill_another)
    assert killed
    assert (counts.done, counts.failed) == (len(DRIVES), 0)
    assert counts.overhead.retries >= 1
    records = {record["source"]: record for record in read_latest(tmp_path / LEDGER_NAME)}
    assert max(record["attempts"] for record in records.values()) >= 2
    for path in DRIVES:
        assert_same_results(of_fleet(tmp_path, DriveRef(path=path)), alone(path))
    assert not list((tmp_path / "drives").glob("*/.*"))
    again = run_fleet(plan)
    assert (again.done, again.skipped) == (0, len(DRIVES))


def test_drives_that_share_an_engine_say_the_same(tmp_path: Path) -> None:
    drives = [*DRIVES[:3], "synthetic:seed=x"]
    plan = FleetPlan(
        drives=drives, out=tmp_path, service=SERVICE, fleet=FleetConfig(workers=3, engine="shared", threads=1)
    )
    counts = run_fleet(plan)
    assert (counts.done, counts.failed) == (3, 1)
    for path in drives[:3]:
        assert_same_results(of_fleet(tmp_path, DriveRef(path=path)), alone(path))


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path, start: Start, perception: Perception) -> None:
    manifest, out = tmp_path / "drives.txt", tmp_path / "out"
    manifest.write_text("\n".join([SHORT, *DRIVES[1:3]]))
    process = start("fleet", str(manifest), "--out", str(out), "--workers", "1", "--quiet")
    ledger = out / LEDGER_NAME
    deadline = time.monotonic() + 240
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(list(read_latest(ledger)))
    said = perception("fleet", str(manifest), "--out", str(out), "--workers", "1", "--json")
    report = json.loads(said.out)
    assert said.code == 0
    assert report["run"]["skipped"] == before >= 1
    assert report["run"]["done"] == 3 - before
    assert report["drives"]["done"] == 3
    refused = perception("fleet", str(manifest), "--out", str(out), "--set", "tracker.max_missed_s=2")
    assert refused.code == 2
    assert "tracker.max_missed_s: 1.0 there, 2.0 now" in refused.err
    summed = perception("fleet", "--out", str(out), "--baseline", str(out), "--json")
    assert summed.code == 0
    assert json.loads(summed.out)["baseline"]["drives"] == 3
