"""`perception serve` as a process of its own: vehicles, commands, a new model, a vehicle that vanishes, the end."""

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.core.results import EndOfRun, PerceptionResult
from perception.models.checkpoint import save_checkpoint
from perception.models.network import PerceptionNetwork
from perception.models.presets import preset
from perception.queues.open import subscribe
from tests.integration.conftest import Perception, Start
from tests.unit.service_parts import ask, until

WAIT_S = 120
LIDAR_HZ = 20.0


class Consumer:
    """Reads a queue in a thread, run after run."""

    def __init__(self, url: str) -> None:
        self.results: list[PerceptionResult] = []
        self.ends: list[EndOfRun] = []
        self._subscription = subscribe(url, start="earliest", follow=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self._subscription:
            (self.results if isinstance(item, PerceptionResult) else self.ends).append(item)  # type: ignore[arg-type]

    def runs(self) -> dict[str, list[int]]:
        """Sequences by run."""
        found: dict[str, list[int]] = {}
        for result in list(self.results):
            found.setdefault(result.run_id, []).append(result.sequence)
        return found

    def open_runs(self) -> list[str]:
        """Runs without an end. Whether the last one was interrupted depends on whether it was at its end just then."""
        return sorted(set(self.runs()) - {end.run_id for end in list(self.ends)})

    def close(self) -> None:
        self._subscription.close()


class Served:
    """A service that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: process.poll() is not None or any("url" in line for line in list(self.log)))
        assert process.poll() is None, self.log
        self.url = str(next(line["url"] for line in self.log if "url" in line))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            is_log = line.startswith("{")
            self.log.append(json.loads(line) if is_log else {"message": "", "text": line.rstrip()})

    def status(self) -> dict[str, Any]:
        code, text = ask(f"{self.url}/status")
        assert code == 200
        found: dict[str, Any] = json.loads(text)
        return found

    def vehicle(self, name: str) -> dict[str, Any]:
        return next((dict(one) for one in self.status()["vehicles"] if one["name"] == name), {"state": None})

    def metric(self, name: str, **labels: str) -> float:
        wanted = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        for line in ask(f"{self.url}/metrics")[1].splitlines():
            if line.startswith(f"{name}{{{wanted}}}" if wanted else f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def end(self) -> int:
        """Exit code."""
        try:
            code = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            told = list(self.log[-30:])
            self.process.send_signal(signal.SIGUSR1)
            until(lambda: any("text" in line for line in self.log[len(told) :]))
            self.process.kill()
            self._thread.join(WAIT_S)
            pytest.fail(
                "it did not end; its log:\n"
                + "\n".join(str(line) for line in told)
                + "\nand its threads:\n"
                + "\n".join(line["text"] for line in self.log if "text" in line)
            )
        self._thread.join(WAIT_S)
        return code


@pytest.fixture
def key() -> str:
    """A key of our own: other tests and services on this machine use Zenoh too."""
    return f"test/serve/{os.getpid()}"


@pytest.fixture
def settings(tmp_path: Path, key: str) -> dict[str, Any]:
    return {
        "vehicles": [
            {"name": "anna", "source": "synthetic:seed=1,duration=2", "loop": True, "queue": f"zenoh:{key}/anna"},
            {"name": "berta", "source": f"sensors:zenoh:{key}/sensors", "queue": f"zenoh:{key}/berta"},
            {"name": "carl", "source": str(tmp_path / "no-drive"), "queue": f"zenoh:{key}/carl"},
        ],
        "service": {"runtime": {"placement": "local", "threads": 1}, "queue": {"linger_s": 0.5}},
        "http": {"port": 0},
        "reconnect": {"first_s": 0.1, "longest_s": 0.5},
        "traces": {"file": str(tmp_path / "trace.json")},
    }


def write(tmp_path: Path, settings: dict[str, Any]) -> str:
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def assert_whole(consumer: Consumer, *, but_last: bool = False) -> None:
    """Every run's results came once each and in order, and as many as its end says."""
    counts = {end.run_id: end.count for end in consumer.ends}
    for run_id, sequences in consumer.runs().items():
        assert sequences == list(range(len(sequences)))
        if run_id in counts:
            assert len(sequences) == counts[run_id]
        else:
            assert but_last, f"{run_id} has no end"


def test_a_day_in_the_life_of_a_service(tmp_path: Path, start: Start, key: str, settings: dict[str, Any]) -> None:
    served = Served(start("serve", write(tmp_path, settings)))
    assert ask(f"{served.url}/healthz")[0] == 200
    anna, berta = Consumer(f"zenoh:{key}/anna"), Consumer(f"zenoh:{key}/berta")
    with closing(anna), closing(berta):
        until(lambda: len(anna.ends) >= 1)
        assert ask(f"{served.url}/readyz")[0] == 200
        assert served.vehicle("carl")["state"] in ("waiting", "starting")
        assert "no-drive" in str(served.vehicle("carl")["error"])

        feeding = start("feed", "synthetic:seed=2,duration=3", f"zenoh:{key}/sensors", "--laps", "500")
        until(lambda: served.vehicle("berta")["state"] == "running" and len(berta.results) > 2)
        feeding.kill()
        until(lambda: served.vehicle("berta")["state"] != "running")
        start("feed", "synthetic:seed=3,duration=3", f"zenoh:{key}/sensors", "--laps", "500")
        until(lambda: len(berta.runs()) >= 2 and berta.results[-1].drive_id == "synthetic/3")

        network = PerceptionNetwork(preset("tiny").model_copy(update={"seed": 5}))
        save_checkpoint(tmp_path / "other.safetensors", network, {})
        code, text = ask(f"{served.url}/model", {"name": str(tmp_path / "other.safetensors")})
        assert code == 200, text
        hashes = json.loads(text)["old"]["hash"], json.loads(text)["new"]["hash"]
        assert hashes[0] != hashes[1]
        until(lambda: all(one.results[-1].provenance.model_hash == hashes[1] for one in (anna, berta)))
        assert ask(f"{served.url}/model", {"name": "enormous"})[0] == 422
        assert served.status()["model"]["hash"] == hashes[1]

        assert ask(f"{served.url}/vehicles/anna/drain", {})[0] == 200
        assert served.vehicle("anna")["state"] == "stopped"
        until(lambda: anna.open_runs() == [])
        assert ask(f"{served.url}/vehicles/anna/start", {})[0] == 202
        until(lambda: served.vehicle("anna")["state"] == "running")
        assert served.metric("perception_results_total", vehicle="anna") > 0
        assert served.metric("perception_model_loads_total") == 2
        assert served.metric("perception_runs_total", reason="failed", vehicle="carl") > 0

        served.process.send_signal(signal.SIGUSR1)
        until(lambda: any("service.py" in line.get("text", "") for line in list(served.log)))
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        until(lambda: anna.open_runs() == berta.open_runs() == [], lambda: f"{anna.ends}\n{berta.ends}\n{served.log}")
        for consumer in (anna, berta):
            assert_whole(consumer)
            seen = [result.provenance.model_hash for result in consumer.results]
            assert seen == sorted(seen, key=hashes.index), "the new model follows the old one, and never the reverse"
            assert set(seen) == set(hashes)

    began = {line["run_id"] for line in served.log if line["message"] == "run began" and line["vehicle"] == "anna"}
    assert began == set(anna.runs())
    assert served.log[-1]["message"] == "service ended"
    trace = [event for event in json.loads((tmp_path / "trace.json").read_text()) if event.get("ph") == "X"]
    assert {event["cat"] for event in trace} == {"camera", "lidar", "radar", "fusion"}


def test_a_service_that_was_killed_goes_on_with_its_runs(
    tmp_path: Path, start: Start, key: str, settings: dict[str, Any]
) -> None:
    """A drive and sensors that publish: the consumers see no new run, but an outage that is counted."""
    settings["vehicles"] = [
        {"name": "anna", "source": "synthetic:seed=1,duration=60", "rate": 0.25, "queue": f"zenoh:{key}/anna"},
        {"name": "berta", "source": f"sensors:zenoh:{key}/sensors", "queue": f"zenoh:{key}/berta"},
    ]
    settings["service"]["runtime"]["resume_within_s"] = 300
    arguments = ("serve", write(tmp_path, settings), "--resume", str(tmp_path / "runs"))
    start("feed", "synthetic:seed=2,duration=60", f"zenoh:{key}/sensors", "--rate", "0.25")
    anna, berta = Consumer(f"zenoh:{key}/anna"), Consumer(f"zenoh:{key}/berta")
    with closing(anna), closing(berta):
        killed = start(*arguments)
        until(lambda: all(len(one.results) > 5 for one in (anna, berta)))
        killed.kill()
        killed.wait(WAIT_S)
        served = Served(start(*arguments))
        until(lambda: all(any(result.provenance.restarts for result in list(one.results)) for one in (anna, berta)))
        again = start(*arguments)
        assert "another process is at work on this run" in again.communicate(timeout=WAIT_S)[1]
        assert again.returncode == 2
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        until(lambda: anna.open_runs() == berta.open_runs() == [])
    for consumer in (anna, berta):
        assert len(consumer.runs()) == len(consumer.ends) == 1
        sequences = [result.sequence for result in consumer.results]
        assert sequences == sorted(set(sequences)), "none comes twice"
        assert sum(b - a - 1 for a, b in pairwise(sequences)) <= 1, "a number is spoken for before its result is sent"
        place, first = next((i, one) for i, one in enumerate(consumer.results) if one.provenance.restarts)
        assert first.provenance.restarts == {"service": 1}
        missed_s = (first.reference_ns - consumer.results[place - 1].reference_ns) / 1e9
        rest = missed_s * LIDAR_HZ - first.provenance.dropped["outage"] - 1
        assert 0 <= rest + 0.5 < 0.25 * missed_s * LIDAR_HZ + 3, "what is missing is counted, but for an overload then"


def test_a_port_in_use_is_refused_before_anything_is_loaded(
    tmp_path: Path, perception: Perception, settings: dict[str, Any]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = perception("serve", write(tmp_path, settings), "--port", str(port))
    assert said.code == 2
    assert said.err.startswith(f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; ")


def test_wrong_use_is_explained(tmp_path: Path, perception: Perception, settings: dict[str, Any]) -> None:
    assert "unknown serving configuration 'nothing'; shipped: example" in perception("serve", "nothing").err
    assert perception("serve", "example", "--set", "http.prt=1").code == 2
    said = perception("serve", write(tmp_path, settings), "--check")
    assert (said.code, json.loads(said.out)["vehicles"][0]["name"]) == (0, "anna")


def test_ctl_explains_itself(perception: Perception) -> None:
    assert perception("ctl", "start").err == "error: start needs a NAME\n"
    assert perception("ctl", "status", "anna").code == 2
    said = perception("ctl", "status", "--url", "http://127.0.0.1:9")
    assert said.code == 1
    assert "is `perception serve` running there?" in said.err
    assert perception("ctl", "status", "--url", "file:///etc/passwd").code == 2
