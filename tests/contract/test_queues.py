"""Every kind of queue keeps the contract; those with a broker, on a real one."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perception.queues.contract import CHECKS, QueueKit
from perception.queues.open import QUEUES
from tests.contract.brokers import SERVERS, Server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """A server for each scheme, started when it is first wanted."""
    running: dict[str, Server] = {}

    def server_of(scheme: str) -> Server:
        if scheme not in running:
            server = SERVERS[scheme](tmp_path_factory.mktemp(scheme))
            server.start()
            running[scheme] = server
        return running[scheme]

    yield server_of
    for server in running.values():
        server.kill()


@pytest.mark.parametrize("scheme", sorted(QUEUES))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_queue_keeps_the_contract(
    scheme: str, check: Callable[[QueueKit], None], servers: Callable[[str], Server], tmp_path: Path
) -> None:
    name = uuid.uuid4().hex
    if scheme in SERVERS:
        url = f"{scheme}://127.0.0.1:{servers(scheme).port}/{name}"
        kit = QueueKit(url=url, promised_persistence=True, promised_groups=True)
    elif scheme == "mcap":
        kit = QueueKit(
            url=f"mcap:{tmp_path / name}.mcap",
            promised_overrun=False,
            promised_persistence=True,
            promised_producers=False,
        )
    else:
        kit = QueueKit(url=f"{scheme}:test/{name}")
    check(kit)
