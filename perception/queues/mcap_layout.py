"""What our MCAP files hold besides results: their fixed beginning, and the index at their end."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from perception.queues import perception_result_pb2 as pb
from perception.queues.mcap_records import MAGIC, RECORD_HEAD

LIBRARY = "perception"
TOPIC = "perception/results"
SCHEMA_NAME = "perception.v1.QueueItem"
ENCODING = "protobuf"
CHANNEL = 1
PRODUCER_RECORD = "perception.queue"
"""The metadata record with which each producer begins; its `producer` tells one from the next."""
_FOOTER_LENGTH = 20


def packed(*records: McapRecord) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]


def schema_and_channel() -> tuple[Schema, Channel]:
    """The protobuf schema as MCAP wants it, a serialized `FileDescriptorSet`, and the channel that has it."""
    files = FileDescriptorSet()
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    schema = Schema(id=1, name=SCHEMA_NAME, encoding=ENCODING, data=files.SerializeToString(deterministic=True))
    return schema, Channel(id=CHANNEL, topic=TOPIC, message_encoding=ENCODING, metadata={}, schema_id=1)


def beginning() -> bytes:
    """The first bytes of every file of this version."""
    return MAGIC + packed(Header(profile="", library=LIBRARY), *schema_and_channel())


@dataclass(slots=True, kw_only=True)
class Summary:
    """What the index of a file needs, kept as it grows: about 100 bytes for each chunk, which holds one message."""

    chunks: int = 0
    metadata: int = 0
    start_ns: int = 0
    end_ns: int = 0
    chunk_indexes: bytearray = field(default_factory=bytearray)
    metadata_indexes: bytearray = field(default_factory=bytearray)

    def add_chunk(self, index: ChunkIndex) -> None:
        self.start_ns = min(self.start_ns, index.message_start_time) if self.chunks else index.message_start_time
        self.end_ns = max(self.end_ns, index.message_end_time)
        self.chunks += 1
        self.chunk_indexes += packed(index)

    def add_metadata(self, position: int, length: int, name: str) -> None:
        """length: of the whole record."""
        self.metadata += 1
        self.metadata_indexes += packed(MetadataIndex(offset=position, length=length, name=name))

    def ending(self, position: int) -> bytes:
        """All that follows the data, which end at `position`."""
        schema, channel = schema_and_channel()
        statistics = Statistics(
            attachment_count=0,
            channel_count=1,
            channel_message_counts={CHANNEL: self.chunks},
            chunk_count=self.chunks,
            message_count=self.chunks,
            metadata_count=self.metadata,
            message_start_time=self.start_ns,
            message_end_time=self.end_ns,
            schema_count=1,
        )
        groups: Sequence[tuple[Opcode, bytes | bytearray]] = (
            (Opcode.SCHEMA, packed(schema)),
            (Opcode.CHANNEL, packed(channel)),
            (Opcode.STATISTICS, packed(statistics)),
            (Opcode.CHUNK_INDEX, self.chunk_indexes),
            (Opcode.METADATA_INDEX, self.metadata_indexes),
        )
        data_end = packed(DataEnd(data_section_crc=0))
        start = offset = position + len(data_end)
        offsets = []
        for opcode, group in groups:
            if group:
                offsets.append(SummaryOffset(group_opcode=opcode, group_start=offset, group_length=len(group)))
            offset += len(group)
        summary = b"".join([*(group for _, group in groups), packed(*offsets)])
        # The checksum covers the summary and the footer up to the checksum itself.
        footer = packed(Footer(summary_start=start, summary_offset_start=offset, summary_crc=0))
        checksum = zlib.crc32(footer[: RECORD_HEAD.size + _FOOTER_LENGTH - 4], zlib.crc32(summary))
        footer = packed(Footer(summary_start=start, summary_offset_start=offset, summary_crc=checksum))
        return data_end + summary + footer + MAGIC
