"""Reads many protobuf messages of one kind at once, as columns, within the protobuf library.

Where one message is expected and several come, the library merges them: the values of a repeated field line up
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). `COLUMNS` is `QueueItem` described so that this
happens to detections, path hints and waypoints: each is one message whose fields are all repeated. `FRAMES` has what
merging loses, how many messages there were and how long each was: it leaves them as bytes.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from perception.queues import perception_result_pb2 as pb

BULK = ("detections", "path_hints")


def varint(number: int) -> bytes:
    """A number from 0 on in digits of 7 bits, the lowest first; all but the last have their top bit set."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))


def framed(tag: int, content: bytes) -> bytes:
    """A field that holds a text, a message or packed numbers."""
    return bytes((tag,)) + varint(len(content)) + content


def _described(change: Callable[[dict[str, DescriptorProto]], None]) -> Any:
    """The class of `QueueItem` after a change to the messages of its file, which are given by name."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    change({message.name: message for message in file.message_type})
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("perception.v1.QueueItem"))


def _as_columns(messages: dict[str, DescriptorProto]) -> None:
    for field in _bulk(messages):
        field.label = field.LABEL_OPTIONAL
    for name in ("Detection", "PathHint", "Waypoint"):
        del messages[name].oneof_decl[:]
        for field in messages[name].field:
            field.ClearField("oneof_index")
            field.ClearField("proto3_optional")
            field.label = field.LABEL_OPTIONAL if field.type == field.TYPE_MESSAGE else field.LABEL_REPEATED
            if field.type == field.TYPE_STRING:
                # They are only compared with known ones: there is no need to make texts of them.
                field.type = field.TYPE_BYTES


def _as_frames(messages: dict[str, DescriptorProto]) -> None:
    fields, result = _bulk(messages), messages["PerceptionResult"]
    for field in fields:
        field.type = field.TYPE_BYTES
        field.ClearField("type_name")
    del result.field[:], result.oneof_decl[:]
    result.field.extend(fields)


def _bulk(messages: dict[str, DescriptorProto]) -> list[FieldDescriptorProto]:
    return [field for field in messages["PerceptionResult"].field if field.name in BULK]


COLUMNS = _described(_as_columns)
FRAMES = _described(_as_frames)
