"""MCAP files that others wrote, damaged or made to harm: what can be read is, else a clear error in little memory."""

import struct
import tracemalloc
from io import BytesIO
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]
import numpy as np
import pytest
import zstandard
from mcap.records import Chunk
from mcap.writer import CompressionType, Writer

from perception.core.errors import QueueError
from perception.queues.codec import encode
from perception.queues.mcap import McapQueue
from perception.queues.mcap_feed import McapFeed
from perception.queues.mcap_layout import beginning, packed, schema_and_channel
from perception.queues.mcap_records import MAGIC, MAX_RECORD_BYTES
from perception.queues.samples import sample_result

MIB = 2**20


def payloads_in(path: Path) -> list[bytes]:
    """All that a consumer gets that does not wait. Raises what it would see."""
    feed = McapFeed(path, is_late=False)
    try:
        return [delivery.payload for delivery in iter(lambda: feed.receive(0), None)]
    finally:
        feed.close()


def written_by_others(*, compression: CompressionType, use_chunking: bool = True) -> bytes:
    """Our results on two channels, sensor data on a third, as Foxglove's own writer lays them out."""
    buffer = BytesIO()
    writer = Writer(buffer, compression=compression, use_chunking=use_chunking, chunk_size=3000)
    writer.start()
    schema, channel = schema_and_channel()
    other = writer.register_schema(name="foxglove.PointCloud", encoding="protobuf", data=b"")
    ours = writer.register_schema(name=schema.name, encoding=schema.encoding, data=schema.data)
    cloud = writer.register_channel(topic="lidar", message_encoding="protobuf", schema_id=other)
    channels = [
        writer.register_channel(topic=topic, message_encoding=channel.message_encoding, schema_id=ours)
        for topic in ("left", "right")
    ]
    for number in range(20):
        for place in (cloud, *channels):
            writer.add_message(channel_id=place, log_time=number, publish_time=number, data=b"%d" % number * 50)
    writer.add_attachment(create_time=0, log_time=0, name="notes", media_type="text/plain", data=bytes(MIB))
    writer.finish()  # type: ignore[no-untyped-call]
    return buffer.getvalue()


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("use_chunking", [True, False])
def test_results_in_a_recording_of_others_are_found(
    tmp_path: Path, compression: CompressionType, use_chunking: bool
) -> None:
    path = tmp_path / "recording.mcap"
    path.write_bytes(written_by_others(compression=compression, use_chunking=use_chunking))
    assert payloads_in(path) == [b"%d" % number * 50 for number in range(20) for _ in range(2)]


def chunk(data: bytes, *, size: int, compression: str = "zstd", checksum: int = 0) -> bytes:
    return packed(
        Chunk(
            message_start_time=0,
            message_end_time=0,
            uncompressed_size=size,
            uncompressed_crc=checksum,
            compression=compression,
            data=data,
        )
    )


def zeros_in_zstd(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return b"".join([*(compressor.compress(bytes(MIB)) for _ in range(size // MIB)), compressor.flush()])


HARMFUL = {
    "no MCAP": (b"PK\x03\x04" + bytes(100), "no MCAP"),
    "huge chunk": (beginning() + struct.pack("<BQ", 6, 2**62), "declares 4611686018427387904 bytes"),
    "huge schema": (MAGIC + struct.pack("<BQ", 3, MAX_RECORD_BYTES + 1), "declares"),
    "huge message": (MAGIC + struct.pack("<BQ", 5, 2**63), "declares"),
    "chunk that declares much": (beginning() + chunk(b"", size=2**40), "declares 1099511627776 bytes of records"),
    "zstd bomb": (beginning() + chunk(zeros_in_zstd(512 * MIB), size=1000), "more than the 1000 bytes"),
    "zstd bomb that owns up": (beginning() + chunk(zeros_in_zstd(512 * MIB), size=512 * MIB), "bytes of records"),
    "lz4 bomb": (
        beginning() + chunk(lz4.frame.compress(bytes(256 * MIB)), size=1000, compression="lz4"),
        "more than the 1000 bytes",
    ),
    "too little": (beginning() + chunk(zstandard.compress(bytes(10)), size=1000), "less than the 1000 bytes"),
    "no zstd": (beginning() + chunk(b"nonsense", size=1000), "cannot be decompressed"),
    "no lz4": (beginning() + chunk(b"nonsense", size=1000, compression="lz4"), "cannot be decompressed"),
    "unknown compression": (beginning() + chunk(b"", size=0, compression="xz"), "'xz'"),
    "wrong checksum": (beginning() + chunk(b"12345", size=5, compression="", checksum=1), "checksum"),
    "half a record in a chunk": (beginning() + chunk(b"12345", size=5, compression=""), "ends within a record"),
    "long record in a chunk": (
        beginning() + chunk(struct.pack("<BQ", 5, 2**60), size=9, compression=""),
        "ends within a record",
    ),
    "message without a head": (beginning() + struct.pack("<BQ", 5, 3) + b"abc", "has no head"),
    "channel of nonsense": (beginning() + struct.pack("<BQ", 4, 8) + b"\xff" * 8, "malformed"),
    "chunk of nonsense": (beginning() + struct.pack("<BQ", 6, 8) + b"\xff" * 8, "malformed"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_files_are_an_error_in_bounded_memory(tmp_path: Path, name: str) -> None:
    data, complaint = HARMFUL[name]
    path = tmp_path / "harmful.mcap"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(QueueError, match=f"harmful.mcap: .*{complaint}"):
            payloads_in(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_RECORD_BYTES
    finally:
        tracemalloc.stop()


def test_what_is_before_the_damage_is_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "results.mcap"
    queue = McapQueue(str(path))
    payloads = [encode(sample_result(np.random.default_rng(0), sequence=n, detections=3)) for n in range(3)]
    for payload in payloads:
        queue.send(payload)
    queue.close()
    data = path.read_bytes()
    third = [place for place in range(len(data)) if data.startswith(b"zstd", place)][2]
    path.write_bytes(data[: third + 60] + b"\x00\xff" + data[third + 62 :])
    feed = McapFeed(path, is_late=False)
    got = [feed.receive(0), feed.receive(0)]
    assert [delivery.payload for delivery in got if delivery] == payloads[:2]
    with pytest.raises(QueueError, match=r"decompressed|checksum"):
        feed.receive(0)
    feed.close()


def test_any_truncation_reads_as_a_file_that_still_grows(tmp_path: Path) -> None:
    whole = written_by_others(compression=CompressionType.ZSTD)
    path = tmp_path / "part.mcap"
    counts = []
    for size in range(0, len(whole) - MIB, 97):
        path.write_bytes(whole[:size])
        counts.append(len(payloads_in(path)))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 10


def test_flipped_bytes_are_an_error_or_read_as_before(tmp_path: Path) -> None:
    whole = bytearray(written_by_others(compression=CompressionType.ZSTD)[:6000])
    path = tmp_path / "flipped.mcap"
    path.write_bytes(whole)
    expected = payloads_in(path)
    rng = np.random.default_rng(3)
    refused = 0
    for place, value in zip(rng.integers(8, len(whole), 150), rng.integers(1, 256, 150), strict=True):
        flipped = bytearray(whole)
        flipped[place] ^= int(value)
        path.write_bytes(flipped)
        try:
            got = payloads_in(path)
        except QueueError:
            refused += 1
        else:
            assert len(got) <= len(expected)
    assert refused > 10
