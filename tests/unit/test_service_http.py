"""The control endpoint: what it answers, whom it refuses, and where it listens."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from perception.config.serving import HttpConfig
from perception.core.errors import ConfigError, ModelError, UsageError
from perception.core.stages import ModelInfo
from perception.runtime.metrics import ServiceMetrics
from perception.runtime.service import Service, ServiceStatus, UnknownVehicleError
from perception.runtime.service_engine import NotNowError
from perception.runtime.service_http import MAX_BODY_BYTES, ControlServer, listen
from tests.unit.service_parts import ask

SECRET = "a-secret-of-some-length"
TINY, SMALL = ModelInfo(name="tiny", hash="1" * 16, trained=True), ModelInfo(name="small", hash="2" * 16, trained=False)


class FakeService:
    """Answers as a service would, and remembers what it was told."""

    def __init__(self) -> None:
        self.metrics = ServiceMetrics()
        self.config = SimpleNamespace(drain_s=0.1)
        self.told: list[str] = []
        self.drains = True
        self.problem: Exception | None = None
        self.status = ServiceStatus(
            ready=True, reasons=(), draining=False, model=TINY, placement="local", engines_started=1, vehicles=()
        )

    def vehicle(self, name: str) -> Any:
        if name != "anna":
            raise UnknownVehicleError(f"no vehicle {name!r}; there are anna")

        def drain(timeout_s: float) -> bool:
            self.told.append("drain")
            return self.drains

        return SimpleNamespace(stop=lambda: self.told.append("stop"), drain=drain)

    def start_vehicle(self, name: str) -> bool:
        self.vehicle(name)
        self.told.append("start")
        return self.told.count("start") == 1

    def replace_model(self, name: str, tier: str) -> tuple[ModelInfo, ModelInfo]:
        if self.problem is not None:
            raise self.problem
        self.told.append(f"{tier} model {name}")
        return TINY, SMALL

    def shut_down(self) -> None:
        self.told.append("shutdown")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    yield from serving(service, HttpConfig(port=0))


def serving(service: FakeService, config: HttpConfig) -> Iterator[str]:
    with closing(ControlServer(cast(Service, service), config, listen(config))) as server:
        yield server.url


def test_status_health_and_metrics(url: str, service: FakeService) -> None:
    code, text = ask(f"{url}/status")
    assert (code, json.loads(text)["model"]["hash"]) == (200, TINY.hash)
    assert ask(f"{url}/healthz")[0] == 200
    assert ask(f"{url}/readyz") == (200, '{"ready":true,"reasons":[]}')
    code, text = ask(f"{url}/metrics")
    assert code == 200
    assert "# TYPE perception_stage_seconds histogram" in text


def test_readiness_says_why_not(url: str, service: FakeService) -> None:
    service.status = ServiceStatus(
        ready=False, reasons=("the model is being loaded",), draining=False, model=None, placement=None,
        engines_started=0, vehicles=(),
    )  # fmt: skip
    assert ask(f"{url}/readyz") == (503, '{"ready":false,"reasons":["the model is being loaded"]}')
    assert ask(f"{url}/healthz")[0] == 200


def test_vehicles_are_started_stopped_and_drained(url: str, service: FakeService) -> None:
    assert [ask(f"{url}/vehicles/anna/start", {})[0] for _ in range(2)] == [202, 200]
    assert ask(f"{url}/vehicles/anna/stop", {})[0] == 202
    assert ask(f"{url}/vehicles/anna/drain", {})[0] == 200
    service.drains = False
    code, text = ask(f"{url}/vehicles/anna/drain", {})
    assert (code, "was not drained within 0.1 s" in text) == (504, True)
    assert service.told == ["start", "start", "stop", "drain", "drain"]
    code, text = ask(f"{url}/vehicles/otto/start", {})
    assert (code, json.loads(text)["error"]) == (404, "no vehicle 'otto'; there are anna")


def test_a_model_is_replaced(url: str, service: FakeService) -> None:
    code, text = ask(f"{url}/model", {"name": "small"})
    assert (code, json.loads(text)) == (200, {"old": asdict(TINY), "new": asdict(SMALL)})
    assert ask(f"{url}/model", {"name": "tiny", "tier": "small"})[0] == 200
    assert service.told == ["full model small", "small model tiny"]
    service.problem = ModelError("no model is called 'huge'")
    assert ask(f"{url}/model", {"name": "huge"}) == (422, '{"error":"no model is called \'huge\'"}')
    service.problem = NotNowError("another model is being loaded")
    assert ask(f"{url}/model", {"name": "huge"})[0] == 409
    service.problem = UsageError("that makes no sense")
    assert ask(f"{url}/model", {"name": "huge"})[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"name": 3}',
        b'{"name": ""}',
        b'{"nam": "tiny"}',
        b'{"name": "tiny", "x": 1}',
        b"\xff",
    ],
)
def test_a_wrong_body_is_refused_and_explained(url: str, body: bytes) -> None:
    code, text = ask(f"{url}/model", raw=body)
    assert code == 400
    assert json.loads(text)["error"].startswith("the body ")


def test_a_long_body_is_refused(url: str) -> None:
    code, text = ask(f"{url}/model", raw=b"x" * (MAX_BODY_BYTES + 1))
    assert (code, json.loads(text)["error"]) == (400, f"the body is longer than {MAX_BODY_BYTES} bytes")


def test_wrong_paths_and_methods(url: str, service: FakeService) -> None:
    assert ask(f"{url}/nothing") == (404, '{"error":"no such path: /nothing"}')
    assert ask(f"{url}/shutdown")[0] == 405
    assert ask(f"{url}/status", {})[0] == 405
    assert ask(f"{url}/vehicles/anna/fly", {})[0] == 404
    assert service.told == []


def test_shutdown(url: str, service: FakeService) -> None:
    assert ask(f"{url}/shutdown", {}) == (202, '{"ending":true}')
    assert service.told == ["shutdown"]


def test_web_pages_are_refused(url: str, service: FakeService) -> None:
    assert ask(f"{url}/shutdown", {}, headers={"Origin": "http://evil.example"})[0] == 403
    assert ask(f"{url}/status", headers={"Host": "evil.example"})[0] == 403
    port = url.rpartition(":")[2]
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert ask(f"{url}/status", headers={"Host": name})[0] == 200
    assert service.told == []


def test_a_token_is_needed_where_one_is_set(service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    for url in serving(service, HttpConfig(port=0, token_file=path)):
        for headers in (
            {},
            {"Authorization": f"Bearer {SECRET}x"},
            {"Authorization": SECRET},
            {"Authorization": "Bearer "},
        ):
            code, text = ask(f"{url}/shutdown", {}, headers=headers)
            assert (code, "token" in text, SECRET in text) == (401, True, False)
        assert ask(f"{url}/metrics")[0] == 401
        assert ask(f"{url}/healthz")[0] == ask(f"{url}/readyz")[0] == 200
        assert service.told == []
        assert ask(f"{url}/shutdown", {}, headers={"Authorization": f"Bearer {SECRET}"})[0] == 202


def test_a_token_that_is_none_is_refused(service: FakeService, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        next(serving(service, HttpConfig(port=0, token_file=tmp_path / "missing")))
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="shorter than 16"):
        next(serving(service, HttpConfig(port=0, token_file=tmp_path / "short")))


def test_it_listens_on_loopback_alone(url: str) -> None:
    port = int(url.rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use; stop who"
        ):
            listen(HttpConfig(port=port))


def test_an_address_of_another_machine_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        listen(HttpConfig(host="192.0.2.1", port=0, token_file=tmp_path / "token"))
