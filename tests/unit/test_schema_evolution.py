"""Old consumers read newer results, new consumers read older ones, and the `.proto` changes only as its rules allow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2 as descriptors
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from perception.core.errors import QueueError
from perception.core.results import EndOfRun
from perception.queues import perception_result_pb2 as pb
from perception.queues.codec import decode, encode
from perception.queues.json_form import from_json, to_json
from perception.queues.samples import sample_result

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "schema"
FROZEN = GOLDEN / "perception_result_v1.proto"
"""The schema as it was first published. It is never changed."""

Field = descriptors.FieldDescriptorProto
File = descriptors.FileDescriptorProto
ADDED = ("QueueItem", "PerceptionResult", "Detection", "PathHint", "SensorStatus", "Provenance", "EndOfRun")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> File:
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path_factory.mktemp("schema") / "frozen.binpb"
    assert protoc.main(["protoc", f"-I{GOLDEN}", f"--descriptor_set_out={out}", FROZEN.name]) == 0
    (file,) = descriptors.FileDescriptorSet.FromString(out.read_bytes()).file
    return file


@pytest.fixture
def newer(frozen: File) -> File:
    """What a later version could be: fields of several kinds added to every message, and a new kind of item."""
    file = copy_of(frozen)
    kind = file.message_type.add(name="Heartbeat")
    add_field(kind, "uptime_ns", 1, Field.TYPE_INT64)
    for name in ADDED:
        message = message_of(file, name)
        add_field(message, "added_number", 100, Field.TYPE_DOUBLE)
        add_field(message, "added_text", 101, Field.TYPE_STRING)
        add_field(message, "added_list", 102, Field.TYPE_INT32).label = Field.LABEL_REPEATED
        add_field(message, "added_part", 103, Field.TYPE_MESSAGE).type_name = ".perception.v1.Heartbeat"
    beat = add_field(message_of(file, "QueueItem"), "heartbeat", 4, Field.TYPE_MESSAGE)
    beat.type_name, beat.oneof_index = ".perception.v1.Heartbeat", 0
    return file


def copy_of(file: File) -> File:
    return File.FromString(file.SerializeToString())


def message_of(file: File, name: str) -> descriptors.DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def field_of(file: File, message: str, name: str) -> Field:
    return next(field for field in message_of(file, message).field if field.name == name)


def add_field(message: descriptors.DescriptorProto, name: str, number: int, kind: "Field.Type.ValueType") -> Field:
    return message.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)


def item_class(file: File) -> type[Message]:
    """`QueueItem` as a program built from this schema knows it."""
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("perception.v1.QueueItem"))


def messages_in(file: File) -> Iterator[tuple[str, descriptors.DescriptorProto]]:
    for message in file.message_type:
        yield message.name, message
        for nested in message.nested_type:
            yield f"{message.name}.{nested.name}", nested


def forbidden_changes(old: File, new: File) -> list[str]:
    """What a reader or writer built from `old` could not live with in `new`."""
    problems = [] if old.package == new.package else [f"package {old.package} became {new.package}"]
    now = dict(messages_in(new))
    for name, message in messages_in(old):
        if name not in now:
            problems.append(f"{name} is gone")
            continue
        fields = {field.number: field for field in now[name].field}
        oneofs = [oneof.name for oneof in now[name].oneof_decl]
        reserved = {n for part in now[name].reserved_range for n in range(part.start, part.end)}
        for field in message.field:
            place = f"{name}.{field.name} = {field.number}"
            there = fields.get(field.number)
            if there is None:
                if field.number not in reserved or field.name not in now[name].reserved_name:
                    problems.append(f"{place} is gone, and not reserved by number and name")
                continue
            facets = ("name", "type", "type_name", "label", "proto3_optional")
            problems += [f"{place} has another {it}" for it in facets if getattr(there, it) != getattr(field, it)]
            group = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
            if group != (oneofs[there.oneof_index] if there.HasField("oneof_index") else None):
                problems.append(f"{place} moved in or out of a oneof")
    return problems


def test_the_schema_changes_only_as_its_rules_allow(frozen: File) -> None:
    current = File()
    pb.DESCRIPTOR.CopyToProto(current)
    assert forbidden_changes(frozen, current) == []


def renumber(file: File) -> None:
    field_of(file, "Detection", "yaw_rad").number = 77


def retype(file: File) -> None:
    field_of(file, "PerceptionResult", "reference_ns").type = Field.TYPE_UINT64


def rename(file: File) -> None:
    field_of(file, "SensorStatus", "alive").name = "is_alive"


def repeat(file: File) -> None:
    field_of(file, "PerceptionResult", "provenance").label = Field.LABEL_REPEATED


def lose_presence(file: File) -> None:
    field_of(file, "Detection", "track_id").proto3_optional = False


def remove(file: File) -> None:
    message_of(file, "EndOfRun").field.remove(field_of(file, "EndOfRun", "reason"))


def reserve_the_number_alone(file: File) -> None:
    remove(file)
    message_of(file, "EndOfRun").reserved_range.add(start=4, end=5)


def leave_the_oneof(file: File) -> None:
    field_of(file, "QueueItem", "end_of_run").ClearField("oneof_index")


def change_the_map(file: File) -> None:
    entry = message_of(file, "Provenance").nested_type[0]
    entry.field[1].type = Field.TYPE_STRING


def move_the_package(file: File) -> None:
    file.package = "perception.v2"


@pytest.mark.parametrize(
    "change",
    [
        renumber,
        retype,
        rename,
        repeat,
        lose_presence,
        remove,
        reserve_the_number_alone,
        leave_the_oneof,
        change_the_map,
        move_the_package,
    ],
)
def test_every_forbidden_change_is_noticed(frozen: File, change: Callable[[File], None]) -> None:
    changed = copy_of(frozen)
    change(changed)
    assert forbidden_changes(frozen, changed)


def test_adding_and_reserving_are_allowed(frozen: File, newer: File) -> None:
    assert forbidden_changes(frozen, newer) == []
    reserve_the_number_alone(newer)
    message_of(newer, "EndOfRun").reserved_name.append("reason")
    assert forbidden_changes(frozen, newer) == []


def without_additions(read: Any, written: Any) -> Any:
    """What was read, with those fields alone that were written then."""
    if isinstance(written, dict):
        return {name: without_additions(read[name], written[name]) for name in written}
    if isinstance(written, list) and len(read) == len(written):
        return [without_additions(*pair) for pair in zip(read, written, strict=True)]
    return read


def newer_payload(newer: File) -> bytes:
    """A result with every added field in use."""
    message = item_class(newer).FromString(encode(sample_result(np.random.default_rng(1), sequence=7, detections=6)))
    result = message.result  # type: ignore[attr-defined]
    for part in (message, result, result.provenance, *result.detections, *result.path_hints, *result.sensors):
        part.added_number, part.added_text = 2.5, "new"
        part.added_list.extend([1, 2, 3])
        part.added_part.uptime_ns = 2**60
    return message.SerializeToString()


def test_an_old_consumer_reads_a_newer_result(frozen: File, newer: File) -> None:
    sent = sample_result(np.random.default_rng(1), sequence=7, detections=6)
    payload = newer_payload(newer)
    assert len(payload) > len(encode(sent)) + 300
    consumer = item_class(frozen)
    got, plain = consumer.FromString(payload), consumer.FromString(encode(sent))
    got.DiscardUnknownFields()
    plain.DiscardUnknownFields()
    assert got == plain
    assert to_json(decode(payload)) == to_json(decode(encode(sent)))


def test_a_new_consumer_reads_an_older_result(frozen: File, newer: File) -> None:
    old = item_class(frozen).FromString(encode(sample_result(np.random.default_rng(1), sequence=7, detections=6)))
    new = item_class(newer).FromString(old.SerializeToString())
    result = new.result  # type: ignore[attr-defined]
    assert result.detections[2].added_number == 0.0
    assert not result.provenance.HasField("added_part")
    assert len(result.detections) == 6
    assert new.SerializeToString(deterministic=True) == old.SerializeToString(deterministic=True)


def test_this_version_reads_what_the_first_one_wrote() -> None:
    payload = (GOLDEN / "result_v1.binpb").read_bytes()
    written = json.loads((GOLDEN / "result_v1.json").read_text())
    read = json.loads(to_json(decode(payload)))
    assert without_additions(read, written) == written
    assert (read["ego_velocity_mps"], read["predicted_to_ns"], read["degraded"]) == (None, None, False)
    assert without_additions(json.loads(to_json(from_json(json.dumps(written)))), written) == written


def test_a_kind_of_item_from_the_future_is_refused_as_such(newer: File) -> None:
    message = item_class(newer)(schema=1, heartbeat={"uptime_ns": 1})
    with pytest.raises(QueueError, match="its writer may be newer"):
        decode(message.SerializeToString())
    end = EndOfRun(drive_id="drive", run_id="run", count=2, reason="completed")
    assert decode(item_class(newer).FromString(encode(end)).SerializeToString()) == end
