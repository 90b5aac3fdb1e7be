"""The file that is a queue: other tools open it, producers come back to it, consumers follow it."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap_protobuf.decoder import DecoderFactory

from perception.core.errors import QueueError, UsageError
from perception.core.ports import QueueItem
from perception.core.results import EndOfRun
from perception.queues.codec import encode
from perception.queues.mcap import McapQueue
from perception.queues.mcap_writer import McapWriter
from perception.queues.open import open_queue, subscribe
from perception.queues.samples import sample_result

PATIENCE_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.mcap"


def items_of(run_id: str, count: int, *, ends: bool = True) -> list[QueueItem]:
    rng = np.random.default_rng(7)
    results: list[QueueItem] = [
        sample_result(rng, sequence=sequence, run_id=run_id, detections=5) for sequence in range(count)
    ]
    end = EndOfRun(drive_id="sample-drive", run_id=run_id, count=count, reason="completed")
    return [*results, end] if ends else results


def publish_run(path: Path, run_id: str, count: int) -> None:
    queue = McapQueue(str(path))
    for item in items_of(run_id, count):
        queue.publish(item)
    queue.close()


def leave_behind(path: Path, run_id: str, count: int) -> int:
    """What a killed producer leaves: results, but neither an end nor an index. Returns where the last one begins."""
    whole = path.with_suffix(".whole")
    queue = McapQueue(str(whole))
    sizes = []
    for item in items_of(run_id, count, ends=False):
        sizes.append(whole.stat().st_size)
        queue.publish(item)
    data = whole.read_bytes()
    queue.close()
    whole.unlink()
    path.write_bytes(data)
    return sizes[-1]


def names(items: "Iterator[QueueItem] | list[QueueItem]") -> list[str]:
    return [f"{item.run_id}/{'end' if isinstance(item, EndOfRun) else item.sequence}" for item in items]


def read_by_others(path: Path) -> list[bytes]:
    """The payloads that Foxglove's own reader finds by way of the index, all checksums compared."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        payloads = [message.data for _, _, message in reader.iter_messages()]
        summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == len(payloads) == len(summary.chunk_indexes)
    return payloads


def test_other_tools_open_the_file_and_find_the_schema_in_it(path: Path) -> None:
    publish_run(path, "run-0", 4)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        decoded = list(reader.iter_decoded_messages())
        metadata = [record.metadata for record in reader.iter_metadata()]
    assert {(schema.name, schema.encoding) for schema, _, _, _ in decoded if schema} == {
        ("perception.v1.QueueItem", "protobuf")
    }
    assert [item.result.sequence for _, _, _, item in decoded[:-1]] == [0, 1, 2, 3]
    assert decoded[-1][3].end_of_run.count == 4
    assert [entry["schema"] for entry in metadata] == ["1"]
    assert read_by_others(path) == [encode(item) for item in items_of("run-0", 4)]
    with path.open("rb") as file:
        assert sum(1 for _ in StreamReader(file, validate_crcs=True).records) > 5, "the order of records is valid"


def test_what_was_published_can_be_read_at_once_by_tools_that_stream(path: Path) -> None:
    queue = McapQueue(str(path))
    items = items_of("run-0", 3)
    for item in items:
        queue.publish(item)
    with path.open("rb") as file:
        records = StreamReader(file).records
        # The file has no end yet, where the reader would stop.
        found = [next(record for record in records if isinstance(record, Message)).data for _ in items]
    assert found == [encode(item) for item in items]
    queue.close()


def test_a_second_run_is_appended_behind_a_closed_file(path: Path) -> None:
    publish_run(path, "run-0", 3)
    publish_run(path, "run-1", 2)
    assert read_by_others(path) == [
        encode(item) for run, count in (("run-0", 3), ("run-1", 2)) for item in items_of(run, count)
    ]
    assert names(list(subscribe(f"mcap:{path}"))) == ["run-0/0", "run-0/1", "run-0/2", "run-0/end"]


def test_a_consumer_at_the_end_of_a_closed_file_gets_the_next_producers_runs(path: Path) -> None:
    publish_run(path, "run-0", 2)
    everything = subscribe(f"mcap:{path}", follow=True, timeout_s=PATIENCE_S)
    new = subscribe(f"mcap:{path}", start="latest", timeout_s=PATIENCE_S)
    items = iter(everything)
    assert names(islice(items, 3)) == ["run-0/0", "run-0/1", "run-0/end"]
    publish_run(path, "run-1", 2)
    assert names(islice(items, 3)) == ["run-1/0", "run-1/1", "run-1/end"]
    assert names(iter(new)) == ["run-1/0", "run-1/1", "run-1/end"]
    everything.close()


@pytest.mark.parametrize("left", [1, 8, 9, 20, 200, -40, -31, -30, -1])
def test_a_new_producer_goes_on_behind_what_a_killed_one_left_whole(path: Path, left: int) -> None:
    """left: bytes of the last result's records that were written (from the end where negative)."""
    before = leave_behind(path, "run-0", 4)
    last = path.stat().st_size - before
    written = left % last
    os.truncate(path, before + written)
    message_index = 31
    is_chunk_whole = written >= last - message_index
    subscription = subscribe(f"mcap:{path}", follow=True, timeout_s=PATIENCE_S)
    items = iter(subscription)
    whole = names(items_of("run-0", 4 if is_chunk_whole else 3, ends=False))
    assert names(islice(items, len(whole))) == whole, "the consumer does not wait for the producer to come back"
    publish_run(path, "run-1", 2)
    assert names(islice(items, 3)) == ["run-1/0", "run-1/1", "run-1/end"]
    assert len(read_by_others(path)) == len(whole) + 3
    subscription.close()


def test_a_file_that_was_killed_at_its_very_beginning_is_begun_again(path: Path) -> None:
    publish_run(path, "run-0", 1)
    whole = path.read_bytes()
    for size in (0, 5, 60, 1000):
        path.write_bytes(whole[:size])
        publish_run(path, "run-1", 1)
        assert len(read_by_others(path)) == 2


def test_the_consumer_of_a_killed_producer_is_told(path: Path) -> None:
    leave_behind(path, "run-0", 3)
    subscription = subscribe(f"mcap:{path}")
    items = iter(subscription)
    assert names(islice(items, 3)) == ["run-0/0", "run-0/1", "run-0/2"]
    with pytest.raises(QueueError, match="went away before the end"):
        next(items)


def test_the_consumer_of_a_run_is_told_when_another_producer_goes_on_in_its_place(path: Path) -> None:
    leave_behind(path, "run-0", 3)
    subscription = subscribe(f"mcap:{path}")
    items = iter(subscription)
    next(items)
    queue = McapQueue(str(path))
    for item in items_of("run-1", 2):
        queue.publish(item)
    assert names(islice(items, 2)) == ["run-0/1", "run-0/2"]
    with pytest.raises(QueueError, match="went away before the end"):
        next(items)
    queue.close()


def test_one_producer_at_a_time(path: Path) -> None:
    queue = open_queue(f"mcap:{path}")
    with pytest.raises(QueueError, match=r"results\.mcap: another producer"):
        open_queue(f"mcap:{path}")
    queue.close()
    publish_run(path, "run-0", 1)


def test_a_file_of_somebody_else_is_left_as_it_is(path: Path) -> None:
    for foreign in (b"notes", b"\x89MCAP0\r\n" + bytes(5000)):
        path.write_bytes(foreign)
        with pytest.raises(QueueError, match="name another file"):
            open_queue(f"mcap:{path}")
        assert path.read_bytes() == foreign


def test_damage_within_a_file_is_never_cut_off_with_what_follows_it(path: Path) -> None:
    publish_run(path, "run-0", 3)
    data = bytearray(path.read_bytes())
    chunk = data.index(b"zstd") - 41
    data[chunk + 8] = 0x40
    path.write_bytes(data)
    with pytest.raises(QueueError, match=r"byte \d+"):
        open_queue(f"mcap:{path}")
    assert path.read_bytes() == data


def test_a_file_that_takes_the_place_of_another_is_followed(path: Path) -> None:
    publish_run(path, "run-0", 1)
    subscription = subscribe(f"mcap:{path}", follow=True, timeout_s=PATIENCE_S)
    items = iter(subscription)
    assert names(islice(items, 2)) == ["run-0/0", "run-0/end"]
    path.unlink()
    publish_run(path, "run-1", 1)
    assert names(islice(items, 2)) == ["run-1/0", "run-1/end"]
    subscription.close()


def test_a_disk_that_is_full_is_an_error_and_leaves_a_whole_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = McapQueue(str(path))
    items = items_of("run-0", 2)
    queue.publish(items[0])
    size = path.stat().st_size
    write = os.pwrite

    def write_half(descriptor: int, data: bytes, offset: int) -> int:
        if offset > size:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2], offset)

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", write_half)
        with pytest.raises(QueueError, match=r"results\.mcap: cannot be written: No space"):
            queue.publish(items[1])
    assert path.stat().st_size == size
    for item in items[1:]:
        queue.publish(item)
    queue.close()
    assert read_by_others(path) == [encode(item) for item in items]


def test_addresses_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a file"):
        open_queue("mcap:")
    with pytest.raises(UsageError, match="no groups"):
        subscribe("mcap:results.mcap", group="planner")
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe", "none/results.mcap"):
        with pytest.raises(QueueError, match=str(tmp_path / name)):
            open_queue(f"mcap:{tmp_path / name}")
    for name in ("", "pipe"):
        with pytest.raises(QueueError, match="is no file"):
            subscribe(f"mcap:{tmp_path / name}")


def test_the_index_is_bounded_to_a_hundred_bytes_a_result(path: Path) -> None:
    writer = McapWriter(path, producer="one")
    for sequence in range(100):
        writer.write(b"payload", sequence)
    data_bytes = path.stat().st_size
    writer.close()
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert summary.schemas[1].data
    assert path.stat().st_size - data_bytes < 100 * 100 + 2 * len(summary.schemas[1].data)
