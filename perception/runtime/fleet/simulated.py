"""Drives that only wait for as long as a GPU would take: what scheduling costs, without the work.

Imported by the workers, so it imports nothing heavy: 64 of them fit on a small machine.
"""

import asyncio
import time
from typing import Any, Final

ACCOUNT_BYTES: Final = 1_200
"""What the account of a real drive comes to as JSON."""


def simulated_drive(key: int, seconds: float) -> dict[str, Any]:
    """A task that sleeps, and answers as a drive does."""
    began = time.perf_counter()
    time.sleep(seconds)
    return _account(key, time.perf_counter() - began)


class SimulatedNode:
    """Several workers in one process, where as many processes do not fit."""

    async def ready(self) -> None:
        """Answers once the process is there."""

    async def drive(self, key: int, seconds: float) -> dict[str, Any]:
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        return _account(key, time.perf_counter() - began)


def _account(key: int, seconds: float) -> dict[str, Any]:
    return {"key": key, "state": "done", "seconds": seconds, "filler": "x" * ACCOUNT_BYTES}
