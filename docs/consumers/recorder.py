"""Writes every result to a file, one JSON object a line, and goes on where it stopped, however it stopped.

    python recorder.py URL FILE [--group NAME] [--follow] [--config SETTINGS.yaml]

A line is on the disk before the queue is told that it was taken. After a kill the queue gives again what it was not
told about (with --group on a queue that remembers its consumers) or all that it still has (without); what is in the
file already is passed over, and an unfinished last line is cut off first. What is missing between the lines is
counted: exit code 3 says that the file has holes.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from perception import EndOfRun, PerceptionError, PerceptionResult, load_service_config, subscribe
from perception.queues.json_form import from_json, to_json

Item = PerceptionResult | EndOfRun


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--group", metavar="NAME", help="let the queue remember what was written")
    parser.add_argument("--follow", action="store_true", help="go on with the next run when one ends")
    parser.add_argument("--config", metavar="YAML", help="settings, of which queue.security lets us in")
    arguments = parser.parse_args()
    log = Log(arguments.file)
    config = load_service_config(arguments.config).queue
    # With `follow`, or an old run that is in the file already would be the only one that is given.
    subscription = subscribe(arguments.url, start="earliest", follow=True, group=arguments.group, config=config)
    for item in subscription:
        if log.append(item) and isinstance(item, EndOfRun) and not arguments.follow:
            # Otherwise the loop says so when it asks for the next item.
            subscription.acknowledge()
            break
    print(f"{log.written} lines written, {log.missing} results missing", flush=True)
    return 3 if log.missing else 0


class Log:
    """The file, and what the next sequence of each run in it is (None: the run has ended)."""

    def __init__(self, path: Path) -> None:
        self.written = 0
        self.missing = 0
        self._next: dict[tuple[str, str], int | None] = {}
        self._file: BinaryIO = path.open("ab+")
        for item in self._read():
            self._next[item.drive_id, item.run_id] = None if isinstance(item, EndOfRun) else item.sequence + 1

    def append(self, item: Item) -> bool:
        """Write a result that is not there yet. Returns False for one that is."""
        run = (item.drive_id, item.run_id)
        expected = self._next.get(run, 0)
        sequence = item.count if isinstance(item, EndOfRun) else item.sequence
        if expected is None or sequence < expected:
            return False
        self._file.write(to_json(item).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.written += 1
        self.missing += sequence - expected
        self._next[run] = None if isinstance(item, EndOfRun) else sequence + 1
        return True

    def _read(self) -> Iterator[Item]:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            yield from_json(line.decode())
            whole += len(line)
        self._file.truncate(whole)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerceptionError as error:
        sys.exit(f"error: {error}")
