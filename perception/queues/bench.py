"""How fast the queues are beside the bare libraries beneath them."""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.errors import PerceptionError, QueueError
from perception.core.results import PerceptionResult
from perception.queues.bench_brokers import PROGRAMS, broker, program_of
from perception.queues.bench_crew import NOTHING, Arrivals, Crew
from perception.queues.bench_ends import Sender, Way
from perception.queues.codec import decode, encode
from perception.queues.samples import sample_result

DETECTIONS = 240
"""Make a result of about 20 KB."""
SCHEMES = ("zenoh", "memory", "mcap", "nats", "redis")
WINDOW = 16
"""A producer at full speed is never further ahead of the slowest consumer that is not stalled."""
WARM_UP_S = 10.0
GRACE_S = 1.0
STALL_HZ = 100.0
STALL_CONSUMERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """seconds: of each measurement; that of latency is three times as long at rates below 50 Hz."""

    seconds: float = 1.2
    rates_hz: tuple[float, ...] = (10.0, 100.0)
    consumers: tuple[int, ...] = (1, 4, 16)


def bench_queues(urls: Sequence[str], plan: BenchPlan) -> dict[str, Any]:
    """Figures for each queue: latency at given rates, and the highest rate for so many consumers.

    urls: queues that exist; where empty, one of each kind is made, brokers included. Ours and the bare library get the
    same bytes in the same run, ours from a result to a result, the library's from bytes to bytes. Of several consumers
    the first is stalled.
    """
    result = sample_result(np.random.default_rng(0), sequence=0, detections=DETECTIONS)
    figures: dict[str, Any] = {
        "cores": os.cpu_count(),
        "payload_bytes": len(encode(result)),
        "codec_ms": codec_times(result),
        "queues": {},
        "left_out": {},
    }
    with ExitStack() as stack:
        crews = Crews(stack, max(*plan.consumers, STALL_CONSUMERS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, make_url in _addresses(urls, folder, stack, figures["left_out"]).items():
            try:
                figures["queues"][name] = bench_queue(make_url, crews.of(name), result, plan)
            except PerceptionError as error:
                figures["left_out"][name] = str(error)
    return figures


class Crews:
    """Consumers for each kind of queue, started when first needed."""

    def __init__(self, stack: ExitStack, members: int) -> None:
        self._stack = stack
        self._members = members
        self._crews: dict[bool, Crew] = {}

    def of(self, url: str) -> Crew:
        in_threads = url.startswith("memory")
        if in_threads not in self._crews:
            self._crews[in_threads] = self._stack.enter_context(Crew(self._members, in_threads=in_threads))
        return self._crews[in_threads]


def bench_queue(make_url: Callable[[], str], crew: Crew, result: PerceptionResult, plan: BenchPlan) -> dict[str, Any]:
    """The figures of one kind of queue; `make_url` gives an address for each measurement."""
    trial = Trial(crew, result)
    has_bare = not make_url().startswith("memory:")

    def ways() -> list[Way]:
        return [Way(url=make_url(), is_bare=is_bare) for is_bare in ((False, True) if has_bare else (False,))]

    figures: dict[str, Any] = {"latency_ms": {}, "rate_per_s": {}}
    for hertz in plan.rates_hz:
        seconds = plan.seconds * (3 if hertz < 50 else 1)
        figures["latency_ms"][f"{hertz:g} Hz"] = trial.latency(ways(), hertz, seconds)
    for consumers in plan.consumers:
        figures["rate_per_s"][str(consumers)] = trial.rates(ways(), consumers, plan.seconds)
    figures["stalled"] = {_name(way): trial.stall(way, plan.seconds) for way in ways()}
    return figures


class Trial:
    """Measurements on one kind of queue."""

    def __init__(self, crew: Crew, result: PerceptionResult) -> None:
        self._crew = crew
        self._result = result
        self._payload = encode(result)

    def latency(self, ways: Sequence[Way], hertz: float, seconds: float) -> dict[str, Any]:
        """From before the sending to after the receiving, all ways in turn."""
        with self._crew.joined([0], ways) as arrivals, self._senders(ways) as senders:
            first = self._warm_up(senders, [0])
            last = self._pace(senders, first, hertz, seconds, [0])
        figures: dict[str, Any] = {
            _name(way): _percentiles(arrivals[0][place], first, last) for place, way in enumerate(ways)
        }
        if len(ways) > 1:
            figures["added_p50"] = round(figures["ours"]["p50"] - figures["bare"]["p50"], 3)
        return figures

    def rates(self, ways: Sequence[Way], consumers: int, seconds: float) -> dict[str, Any]:
        """Messages a second that every consumer but the stalled one received, way after way."""
        figures: dict[str, Any] = {_name(way): self._rate(way, consumers, seconds) for way in ways}
        if len(ways) > 1:
            figures["of_bare"] = round(figures["ours"] / figures["bare"], 3)
        return figures

    def stall(self, way: Way, seconds: float) -> dict[str, float]:
        """Latency of the others before and while one consumer is stalled."""
        members = list(range(STALL_CONSUMERS))
        with self._crew.joined(members, [way]) as arrivals, self._senders([way]) as senders:
            first = self._pace(senders, self._warm_up(senders, members), STALL_HZ, seconds / 2, members) + 1
            half = self._pace(senders, first, STALL_HZ, 2 * seconds, members)
            with self._crew.stalled(0):
                last = self._pace(senders, half + 1, STALL_HZ, 2 * seconds, members[1:])
        others = [arrival for member in members[1:] for arrival in arrivals[member][0]]
        before, after = _percentiles(others, first, half), _percentiles(others, half + 1, last)
        return {
            "p99_ms": before["p99"],
            "p99_ms_one_stalled": after["p99"],
            "ratio": round(after["p99"] / before["p99"], 2),
        }

    def _rate(self, way: Way, consumers: int, seconds: float) -> float:
        members, progress = list(range(consumers)), self._crew.progress
        live = members[1:] or members
        with ExitStack() as stack:
            arrivals = stack.enter_context(self._crew.joined(members, [way]))
            (sender,) = stack.enter_context(self._senders([way]))
            number = first = self._warm_up([sender], members)
            if len(live) < consumers:
                stack.enter_context(self._crew.stalled(0))
            begun = time.monotonic()
            while time.monotonic() - begun < seconds:
                sender.send(number)
                number += 1
                _await(lambda: progress.slowest(live, 0) >= number - WINDOW, GRACE_S)  # noqa: B023
            _await(lambda: progress.slowest(live, 0) >= number - 1, GRACE_S)
            elapsed_s = time.monotonic() - begun
        received = min(sum(got >= first for got, _ in arrivals[member][0]) for member in live)
        return round(received / elapsed_s, 1)

    def _warm_up(self, senders: Sequence[Sender], members: Sequence[int]) -> int:
        """Send until every member has got something on every way; the number to go on with."""
        deadline, number = time.monotonic() + WARM_UP_S, 0
        ways = range(len(senders))
        while any(self._crew.progress.slowest(members, way) == NOTHING for way in ways):
            if time.monotonic() > deadline:
                raise QueueError(f"not every consumer got something within {WARM_UP_S:g} s")
            for sender in senders:
                sender.send(number)
            number += 1
            time.sleep(0.02)
        return number

    def _pace(self, senders: Sequence[Sender], first: int, hertz: float, seconds: float, members: Sequence[int]) -> int:
        """Send at a pace, the ways in turn, and wait for `members` to have it all; the last number sent."""
        begun, count = time.monotonic(), max(2, round(hertz * seconds))
        for step in range(count):
            for place, sender in enumerate(senders):
                due = begun + (step + place / len(senders)) / hertz
                time.sleep(max(0.0, due - time.monotonic()))
                sender.send(first + step)
        last = first + count - 1
        for way in range(len(senders)):
            _await(lambda: self._crew.progress.slowest(members, way) >= last, GRACE_S)  # noqa: B023
        return last

    @contextmanager
    def _senders(self, ways: Sequence[Way]) -> Iterator[list[Sender]]:
        with ExitStack() as stack:
            yield [stack.enter_context(closing(way.sender(self._result, self._payload))) for way in ways]


def codec_times(result: PerceptionResult, repeats: int = 100) -> dict[str, float]:
    """What of our latency is making bytes of a result and a result of bytes: medians in ms.

    Again and again without a pause, and at a pace of 100 Hz, between which the machine's caches forget.
    """
    payload = encode(result)
    works: dict[str, Callable[[], object]] = {"encode": lambda: encode(result), "decode": lambda: decode(payload)}
    return {
        name + suffix: _median_ms(work, pause_s, repeats)
        for suffix, pause_s in (("", 0.0), ("_at_100_hz", 0.01))
        for name, work in works.items()
    }


def _median_ms(work: Callable[[], object], pause_s: float, repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        time.sleep(pause_s)
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return round(float(np.median(taken)) * 1e3, 3)


def _addresses(
    urls: Sequence[str], folder: Path, stack: ExitStack, left_out: dict[str, str]
) -> dict[str, Callable[[], str]]:
    """What makes a fresh address on each queue. Those that cannot be had are named in `left_out`."""
    if urls:
        return {url: lambda url=url: url for url in urls}  # type: ignore[misc]
    makers: dict[str, Callable[[], str]] = {}
    for scheme in SCHEMES:
        if scheme in PROGRAMS:
            if program_of(scheme) is None:
                left_out[scheme] = f"{PROGRAMS[scheme]} is not installed"
                continue
            where = folder / scheme
            where.mkdir()
            server = stack.enter_context(broker(scheme, where))
            makers[scheme] = lambda start=f"{scheme}://{server}/": start + uuid.uuid4().hex  # type: ignore[misc]
        elif scheme == "mcap":
            makers[scheme] = lambda: f"mcap:{folder / uuid.uuid4().hex}.mcap"
        else:
            makers[scheme] = lambda start=f"{scheme}:bench/": start + uuid.uuid4().hex  # type: ignore[misc]
    return makers


def _name(way: Way) -> str:
    return "bare" if way.is_bare else "ours"


def _percentiles(arrivals: Arrivals, first: int, last: int) -> dict[str, float]:
    """In ms, of the messages from `first` to `last`. Raises QueueError where none arrived."""
    latencies = [latency_ns / 1e6 for number, latency_ns in arrivals if first <= number <= last]
    if not latencies:
        raise QueueError("no message arrived while the latency was measured")
    return {f"p{percent}": round(float(np.percentile(latencies, percent)), 3) for percent in (50, 99)}


def _await(is_true: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.0001)
