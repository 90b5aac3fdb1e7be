"""`perception supervise --standby`: the spare that waits is the one that goes on, and nobody is left behind."""

import os
import signal
from contextlib import closing
from pathlib import Path

import psutil
import yaml

from tests.integration.conftest import Perception, Start
from tests.integration.test_serve_command import WAIT_S, Consumer
from tests.processes import holders_of
from tests.unit.service_parts import until


def test_the_spare_goes_on_with_the_run(tmp_path: Path, start: Start) -> None:
    queue = f"zenoh:test/standby/{os.getpid()}"
    settings = {
        "vehicles": [{"name": "anna", "source": "synthetic:seed=1,duration=60", "rate": 0.25, "queue": queue}],
        "service": {"runtime": {"placement": "local", "threads": 1, "resume_within_s": 300}},
        "http": {"port": 0},
    }
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(settings))
    lock = tmp_path / "runs" / "anna" / "lock"
    with closing(Consumer(queue)) as consumer:
        supervisor = start("supervise", "--standby", "serve", str(file), "--resume", str(tmp_path / "runs"))
        children = psutil.Process(supervisor.pid).children
        until(lambda: len(consumer.results) > 3 and len(children()) == 2)
        pids = {child.pid for child in children()}
        (first,) = holders_of(lock, children())
        os.kill(first, signal.SIGKILL)
        until(lambda: any(result.provenance.restarts for result in list(consumer.results)))
        assert set(holders_of(lock, children())) == pids - {first}
        news = next(result for result in list(consumer.results) if result.provenance.restarts)
        assert news.provenance.restarts == {"service": 1}
        assert news.provenance.dropped["outage"] > 0
        assert len(consumer.runs()) == 1
        until(lambda: len(children()) == 2)  # the next spare
        left = children(recursive=True)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(WAIT_S) == 0
        until(lambda: consumer.open_runs() == [])
    assert not any(process.is_running() for process in left)


def test_only_commands_that_can_wait_have_a_spare(perception: Perception) -> None:
    said = perception("supervise", "--standby", "train", "x", "--resume", "y")
    assert said.code == 2
    assert said.err == "error: --standby: train cannot wait for its turn; replay and serve can\n"
