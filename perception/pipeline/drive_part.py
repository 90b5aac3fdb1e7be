"""A part of a drive, chosen by seconds after its first message arrived."""

from collections.abc import Iterator

from perception.core.messages import AnyMessage
from perception.core.ports import Seekable, Source


def part_of(
    source: Source, start_s: float = 0.0, duration_s: float | None = None
) -> Iterator[tuple[float, AnyMessage]]:
    """Messages with their arrival in seconds after the first one: from `start_s` on, before `start_s + duration_s`.

    What lies before is skipped without reading it where the source can do so.
    """
    first_ns: int | None = None
    messages = source.messages()
    if start_s > 0 and isinstance(source, Seekable) and (span := source.span_ns) is not None:
        first_ns = span[0]
        messages = source.messages_from(first_ns + round(start_s * 1e9))
    for message in messages:
        if first_ns is None:
            first_ns = message.arrival_ns
        elapsed_s = (message.arrival_ns - first_ns) / 1e9
        if elapsed_s < start_s:
            continue
        if duration_s is not None and elapsed_s >= start_s + duration_s:
            return
        yield elapsed_s, message
