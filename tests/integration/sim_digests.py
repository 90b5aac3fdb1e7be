"""Renders a scenario and prints a digest of every byte of every message: run in processes that are to agree."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import numpy as np

from perception.core.messages import AnyMessage
from sim.scenario import load_scenario
from sim.source import open_simulator


def digests(settings: list[str], threads: int) -> Iterator[str]:
    """A line for each message of the tiny scenario: sensor, capture time, digest of all its fields."""
    source = open_simulator(load_scenario("tiny", settings), threads=threads)
    for message in source.messages():
        yield f"{message.sensor} {message.capture_ns} {_digest(message)}"
    source.close()


def _digest(message: AnyMessage) -> str:
    digest = hashlib.sha256()
    for part in _parts(message):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: object) -> Iterator[bytes]:
    if is_dataclass(value):
        for field in fields(value):
            yield field.name.encode()
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    else:
        yield value if isinstance(value, bytes) else repr(value).encode()


if __name__ == "__main__":
    threads, *settings = sys.argv[1:]
    for line in digests(settings, int(threads)):
        print(line)
