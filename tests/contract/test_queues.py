"""Every kind of queue keeps the contract."""

import uuid
from collections.abc import Callable

import pytest

from perception.queues.contract import CHECKS, QueueKit
from perception.queues.open import QUEUES


@pytest.mark.parametrize("scheme", sorted(QUEUES))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_queue_keeps_the_contract(scheme: str, check: Callable[[QueueKit], None]) -> None:
    check(QueueKit(url=f"{scheme}:test/{uuid.uuid4().hex}"))
