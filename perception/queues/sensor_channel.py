"""A second channel beside the results: what a viewer is shown of the sensors. Consumers of results never see it.

It lies at the queue's address with `/sensors` behind it, on queues whose history is in the producer's memory.
"""

from importlib import import_module
from typing import Protocol, cast

from perception.config.schema import QueueConfig
from perception.core.errors import UsageError
from perception.queues.open import QUEUES
from perception.queues.subscription import Feed, Reading

CARRIERS = ("zenoh", "memory")
SUFFIX = "/sensors"
HISTORY = 16
LINGER_S = 0.5


class SensorChannel(Protocol):
    """The producer's end; payloads are the viewer's affair."""

    def send(self, payload: bytes) -> None:
        """Raises QueueError where it cannot be sent."""
        ...

    def has_consumer(self) -> bool:
        """Whether anybody looks."""
        ...

    def close(self) -> None: ...


class _Carrier(Protocol):
    """What a queue's module has for this."""

    def open_queue(self, address: str, config: QueueConfig) -> SensorChannel: ...

    def open_feed(self, address: str, reading: Reading, config: QueueConfig) -> Feed: ...


def open_sensor_channel(url: str, config: QueueConfig) -> SensorChannel:
    """The channel beside the queue at `url`. Raises UsageError where that queue carries results only."""
    scheme, _, address = url.partition(":")
    if scheme not in CARRIERS:
        raise UsageError(f"{scheme}: carries results only; --publish-sensors needs a queue of {' or '.join(CARRIERS)}")
    return _carrier(scheme).open_queue(address + SUFFIX, _short(config))


def sensor_feed(url: str, config: QueueConfig) -> Feed | None:
    """Payloads of the channel beside the queue at `url` as they come; None where that queue carries results only."""
    scheme, _, address = url.partition(":")
    if scheme not in CARRIERS:
        return None
    return _carrier(scheme).open_feed(address + SUFFIX, Reading(), _short(config))


def _carrier(scheme: str) -> _Carrier:
    return cast(_Carrier, import_module(QUEUES[scheme]))


def _short(config: QueueConfig) -> QueueConfig:
    return config.model_copy(update={"history": HISTORY, "linger_s": min(config.linger_s, LINGER_S)})
