"""The consumers in JavaScript and C++, built and run as docs/consumers.md says, on the real servers."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from perception.config.schema import QueueConfig, QueueSecurity
from perception.core.results import EndOfRun, PerceptionResult
from perception.queues.broker_queue import BrokerQueue
from perception.queues.open import open_queue
from perception.queues.samples import sample_result
from tests.contract.brokers import NatsServer, RedisServer

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = ROOT / "docs" / "consumers"
SCHEMA = ROOT / "perception" / "queues" / "perception_result.proto"
PATIENCE_S = 60.0
COUNT = 40
READER = {"PERCEPTION_QUEUE_USER": "reader", "PERCEPTION_QUEUE_PASSWORD": "reader-secret"}

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a program that logs in as the documented reader, while this process is the service; kills what is left."""
    monkeypatch.setenv("SERVICE_PASSWORD", "service-secret")
    monkeypatch.setenv("READER_PASSWORD", "reader-secret")
    monkeypatch.setenv("PERCEPTION_QUEUE_USER", "service")
    monkeypatch.setenv("PERCEPTION_QUEUE_PASSWORD", "service-secret")
    started: list[subprocess.Popen[str]] = []

    def run(*command: object, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **READER, **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def made(*command: object, folder: Path) -> None:
    """Run a step of the build; skips with its complaint where it fails for want of a package or the network."""
    step = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S * 4)
    if step.returncode:
        pytest.skip(f"{command[0]} {command[1]} failed here: {(step.stderr or step.stdout)[-500:]}")


@pytest.fixture(scope="module")
def node_consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("node", "npm")
    folder = tmp_path_factory.mktemp("consumer") / "node"
    shutil.copytree(CONSUMERS / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    made("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", folder=folder)
    return folder / "consumer.mjs"


@pytest.fixture(scope="module")
def cpp_consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("cmake", "g++", "protoc", "pkg-config")
    folder = tmp_path_factory.mktemp("cpp")
    made("cmake", "-S", CONSUMERS / "cpp", "-B", folder, f"-DSCHEMA={SCHEMA}", folder=folder)
    build = subprocess.run(["cmake", "--build", str(folder)], capture_output=True, text=True, timeout=PATIENCE_S * 4)
    assert build.returncode == 0, build.stdout + build.stderr
    assert "warning" not in build.stdout + build.stderr
    return folder / "consumer"


def line(result: PerceptionResult) -> str:
    tracked = int((result.detections.track_id >= 0).sum())
    x, y = result.path_hints.waypoints_m[0, -1].tolist()
    return (
        f"{result.drive_id} #{result.sequence} at {result.reference_ns}: {len(result.detections)} detections, "
        f"{tracked} tracked; best path ends at ({x:.1f}, {y:.1f}) m"
    )


def check_consumer(consumer: "subprocess.Popen[str]", url: str, security: QueueSecurity) -> None:
    """A consumer that was there first prints each result once, whatever else is in the queue, and ends with the run."""
    queue = open_queue(url, QueueConfig(url=url, security=security))
    assert isinstance(queue, BrokerQueue)
    deadline = time.monotonic() + PATIENCE_S
    while not queue.has_consumer():
        assert consumer.poll() is None, consumer.communicate()
        assert time.monotonic() < deadline, "the producer sees no consumer"
        time.sleep(0.02)
    rng = np.random.default_rng(0)
    sent = [sample_result(rng, sequence=sequence, detections=sequence) for sequence in range(COUNT)]
    for result in sent:
        queue.publish(result)
        if result.sequence == COUNT // 2:
            for payload in (b"", b"junk" * 100, b"\x08\x02"):
                queue.send(payload)
            queue.publish(sent[3])
    queue.publish(EndOfRun(drive_id="sample-drive", run_id="run-0", count=COUNT, reason="completed"))
    queue.close()
    out, err = consumer.communicate(timeout=PATIENCE_S)
    assert consumer.returncode == 0, err
    assert out.splitlines() == [*map(line, sent), f"end of run run-0: {COUNT} results, completed"]
    assert err == "3 messages were no results\n"


def test_javascript_on_nats_with_tls(start: Start, node_consumer: Path, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    shutil.copy(CONSUMERS / "nats-users.conf", tmp_path / "users.conf")
    server = NatsServer(
        tmp_path,
        f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}\ninclude "users.conf"\n',
    )
    server.start()
    try:
        url = f"nats://localhost:{server.port}/results"
        consumer = start("node", node_consumer, url, SCHEMA, NODE_EXTRA_CA_CERTS=str(ca_file))
        check_consumer(consumer, url, QueueSecurity(ca_file=ca_file))
        stranger = start("node", node_consumer, url, SCHEMA)
        assert stranger.communicate(timeout=PATIENCE_S)[1] == "error: unable to verify the first certificate\n"
        assert stranger.returncode == 1
    finally:
        server.kill()


def test_cpp_on_redis_with_a_password(start: Start, cpp_consumer: Path, tmp_path: Path) -> None:
    users = (CONSUMERS / "redis-users.acl").read_text()
    users = users.replace("SERVICE_PASSWORD", "service-secret").replace("READER_PASSWORD", "reader-secret")
    (tmp_path / "users.acl").write_text(users)
    server = RedisServer(tmp_path, f'aclfile "{tmp_path}/users.acl"\n')
    server.start()
    try:
        url = f"redis://127.0.0.1:{server.port}/results"
        check_consumer(start(cpp_consumer, "127.0.0.1", server.port, "results"), url, QueueSecurity())
        stranger = start(cpp_consumer, "127.0.0.1", server.port, "results", PERCEPTION_QUEUE_PASSWORD="wrong")
        assert "WRONGPASS" in stranger.communicate(timeout=PATIENCE_S)[1]
        assert stranger.returncode == 1
    finally:
        server.kill()
