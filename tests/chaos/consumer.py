"""A consumer in a durable group that keeps books: `python -m tests.chaos.consumer URL BOOK`."""

import sys
import time
from pathlib import Path

from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues.open import subscribe
from tests.chaos.book import Book, line_of


def main(url: str, path: Path) -> None:
    book = Book(path)
    book.mend()
    known = {(entry.run_id, entry.sequence) for entry in book.entries()}
    again = path.with_suffix(".again")
    with path.open("a") as out:
        for item in subscribe(url, group="chaos", follow=True):
            if _key(item) in known:
                with again.open("a") as counted:
                    counted.write(".")
                continue
            known.add(_key(item))
            out.write(line_of(item, time.time()))
            out.flush()


def _key(item: QueueItem) -> tuple[str, int | None]:
    return item.run_id, None if isinstance(item, EndOfRun) else item.sequence


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
