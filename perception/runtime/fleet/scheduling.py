"""Keeps a bounded number of drives under way on a Ray cluster, and hands on what became of each, one at a time."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from perception.core.errors import EngineError

T = TypeVar("T")
T_in = TypeVar("T_in", contravariant=True)
WAIT_S = 5.0


class Begin(Protocol[T_in]):
    """Starts one drive: a reference to its account. attempt: from 1."""

    def __call__(self, drive: T_in, attempt: int, /) -> Any: ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Underway(Generic[T]):
    drive: T
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ended(Generic[T]):
    """How a drive ended. account: what its task returned, or None where `error` says why it returned nothing."""

    drive: T
    attempt: int
    account: dict[str, Any] | None
    error: EngineError | None


@dataclass(slots=True, kw_only=True)
class Overhead:
    """What scheduling itself costs the driver. busy_s: time spent other than waiting for the cluster."""

    drives: int = 0
    retries: int = 0
    busy_s: float = field(default=0.0)


def schedule(
    drives: Iterable[T],
    begin: Begin[T],
    *,
    in_flight: int,
    attempts: int,
    overhead: Overhead | None = None,
    ended: Callable[[T], None] = lambda _: None,
) -> Generator[Ended[T], None, None]:
    """Run every drive, at most `in_flight` at once, and yield each as it ends; nothing of it is kept.

    A drive whose process or node died, or whose account says `may_retry`, begins again, up to `attempts` times in all;
    Ray puts it wherever there is room. ended: called for each attempt that is over. Closing the iterator cancels what
    is under way.
    """
    account = overhead or Overhead()
    waiting = iter(drives)
    underway: dict[Any, _Underway[T]] = {}
    again: list[_Underway[T]] = []
    try:
        while True:
            began = time.perf_counter()
            while len(underway) < in_flight and (one := _next(again, waiting)) is not None:
                underway[begin(one.drive, one.attempt)] = one
            account.busy_s += time.perf_counter() - began
            if not underway:
                return
            for ref in _ready(list(underway)):
                began = time.perf_counter()
                one = underway.pop(ref)
                end = _end(ref, one)
                ended(one.drive)
                is_over = one.attempt >= attempts or not _deserves_another(end)
                if is_over:
                    account.drives += 1
                else:
                    account.retries += 1
                    again.append(_Underway(drive=one.drive, attempt=one.attempt + 1))
                account.busy_s += time.perf_counter() - began
                if is_over:
                    yield end
    finally:
        for ref in underway:
            ray.cancel(ref, force=True)


def _next(again: list[_Underway[T]], waiting: Iterator[T]) -> _Underway[T] | None:
    if again:
        return again.pop()
    drive = next(waiting, None)
    return None if drive is None else _Underway(drive=drive, attempt=1)


def _ready(refs: list[Any]) -> list[Any]:
    """Those that are over; waits until one is."""
    while True:
        first, _ = ray.wait(refs, num_returns=1, timeout=WAIT_S)
        if first:
            return list(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) or first


def _end(ref: Any, one: _Underway[T]) -> Ended[T]:
    try:
        return Ended(drive=one.drive, attempt=one.attempt, account=ray.get(ref), error=None)
    except RayTaskError as error:
        said = f"{type(error.cause).__name__}: {error.cause}"
    except RayError as error:  # its process or its node died
        said = f"the worker died: {type(error).__name__}"
    return Ended(drive=one.drive, attempt=one.attempt, account=None, error=EngineError(said))


def _deserves_another(end: Ended[T]) -> bool:
    return end.account is None or bool(end.account.get("may_retry"))
