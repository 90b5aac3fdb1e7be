"""The wire format and the JSON form: nothing is lost on the way, and nothing malformed is taken."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import QueueError
from perception.core.results import Detections, EndOfRun, PathHints, PerceptionResult
from perception.queues import perception_result_pb2 as pb
from perception.queues.checks import MAX_PAYLOAD_BYTES
from perception.queues.codec import decode, encode
from perception.queues.json_form import from_json, to_json
from perception.queues.samples import sample_result

PROTO = Path("perception/queues/perception_result.proto")
ROOT = Path(__file__).resolve().parents[2]
END = EndOfRun(drive_id="drive", run_id="run", count=3, reason="failed: the disk is full")


@pytest.fixture
def result() -> PerceptionResult:
    return sample_result(np.random.default_rng(1), sequence=5)


def message_of(result: PerceptionResult) -> pb.QueueItem:
    return pb.QueueItem.FromString(encode(result))


def assert_same(got: PerceptionResult, sent: PerceptionResult) -> None:
    for name in Detections.__slots__:
        np.testing.assert_array_equal(getattr(got.detections, name), getattr(sent.detections, name), err_msg=name)
        assert getattr(got.detections, name).dtype == getattr(sent.detections, name).dtype
    for name in ("confidence", "waypoints_m", "times_s"):
        np.testing.assert_array_equal(getattr(got.path_hints, name), getattr(sent.path_hints, name), err_msg=name)
    assert got.path_hints.target_speed_mps == sent.path_hints.target_speed_mps
    assert got.world_SE3_ego is not None
    assert sent.world_SE3_ego is not None
    assert np.abs(got.world_SE3_ego - sent.world_SE3_ego).max() < 1e-12
    for name in ("drive_id", "run_id", "sequence", "reference_ns", "published_ns", "sensors", "provenance"):
        assert getattr(got, name) == getattr(sent, name), name


def test_a_result_survives_the_wire(result: PerceptionResult) -> None:
    got = decode(encode(result))
    assert isinstance(got, PerceptionResult)
    assert_same(got, result)


def test_a_result_survives_json(result: PerceptionResult) -> None:
    got = from_json(to_json(result))
    assert isinstance(got, PerceptionResult)
    assert_same(got, result)


def test_the_end_of_a_run_survives_both_forms() -> None:
    assert decode(encode(END)) == END
    assert from_json(to_json(END)) == END


def test_an_empty_result_survives_both_forms(result: PerceptionResult) -> None:
    nothing = np.zeros(0, dtype=np.float32)
    hints = PathHints(confidence=nothing, waypoints_m=nothing.reshape(0, 0, 2), times_s=nothing, target_speed_mps=0.0)
    empty = replace(result, detections=Detections.empty(), path_hints=hints, sensors=(), world_SE3_ego=None)
    for got in (decode(encode(empty)), from_json(to_json(empty))):
        assert isinstance(got, PerceptionResult)
        assert len(got.detections) == 0
        assert got.path_hints.waypoints_m.shape == (0, 0, 2)
        assert got.world_SE3_ego is None


def test_json_has_every_promised_field_as_a_plain_number(result: PerceptionResult) -> None:
    fields = json.loads(to_json(result))
    assert list(fields) == [
        "drive_id",
        "run_id",
        "sequence",
        "reference_ns",
        "published_ns",
        "detections",
        "path_hints",
        "target_speed_mps",
        "sensors",
        "world_SE3_ego",
        "provenance",
        "ego_velocity_mps",
        "ego_yaw_rate_radps",
        "published_drive_ns",
        "predicted_to_ns",
        "degraded",
    ]
    assert set(fields["detections"][0]) == {
        "label",
        "score",
        "center_m",
        "size_m",
        "yaw_rad",
        "velocity_mps",
        "attribute",
        "track_id",
    }
    assert set(fields["path_hints"][0]) == {"confidence", "waypoints_m", "times_s"}
    assert fields["sensors"][1] == {
        "name": "lidar_top",
        "modality": "lidar",
        "present": False,
        "age_ns": None,
        "alive": False,
        "valid": False,
        "frequency_hz": 0.0,
        "jitter_ns": 1_250_000,
        "faults": [
            {
                "kind": "frozen",
                "since_ns": 1_600_000_000_000_000_001,
                "severity": "error",
                "detail": "the same 34688 points 5 times",
            }
        ],
        "masked": True,
    }
    assert set(fields["world_SE3_ego"]) == {"position_m", "quaternion_wxyz"}
    assert set(fields["provenance"]) == {
        "model",
        "model_hash",
        "trained",
        "calibration_hash",
        "ego_motion",
        "placement",
        "deadline_slack_ns",
        "stage_latency_ns",
        "dropped",
        "restarts",
        "quarantined",
        "publication_slack_ns",
        "ladder_level",
        "ladder_rung",
        "ladder_change",
    }
    assert fields["reference_ns"] == result.reference_ns
    assert type(fields["reference_ns"]) is int
    assert json.loads(to_json(END)) == {
        "end_of_run": {"drive_id": "drive", "run_id": "run", "count": 3, "reason": "failed: the disk is full"}
    }
    assert "\n" not in to_json(result)


def test_json_floats_are_the_shortest_that_give_the_same_float32(result: PerceptionResult) -> None:
    detections = replace(result.detections.rows(np.array([0])), score=np.array([0.1], dtype=np.float32))
    fields = json.loads(to_json(replace(result, detections=detections)), parse_float=str)
    assert fields["detections"][0]["score"] == "0.1"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["score", "center_m", "size_m", "yaw_rad", "velocity_mps"])
def test_a_number_that_is_not_finite_is_refused_in_every_form(
    result: PerceptionResult, field: str, value: float
) -> None:
    spoiled = getattr(result.detections, field).copy()
    spoiled.flat[3] = value
    broken = replace(result, detections=replace(result.detections, **{field: spoiled}))
    with pytest.raises(QueueError, match=field):
        encode(broken)
    with pytest.raises(QueueError, match=field):
        to_json(broken)
    message = message_of(result)
    if field in ("score", "yaw_rad"):
        setattr(message.result.detections[0], field, value)
    else:
        getattr(message.result.detections[0], field)[0] = value
    with pytest.raises(QueueError, match=field):
        decode(message.SerializeToString())


def test_payloads_that_are_no_result_are_refused(result: PerceptionResult) -> None:
    with pytest.raises(QueueError, match="schema 0"):
        decode(b"")
    with pytest.raises(QueueError, match="is not a perception"):
        decode(b"\xff" * 40)
    with pytest.raises(QueueError, match="is not a perception"):
        decode(encode(result)[:-1])
    with pytest.raises(QueueError, match="neither a result nor the end"):
        decode(pb.QueueItem(schema=1).SerializeToString())
    with pytest.raises(QueueError, match="schema 2"):
        decode(pb.QueueItem(schema=2, end_of_run=pb.EndOfRun()).SerializeToString())
    with pytest.raises(QueueError, match="at most"):
        decode(bytes(MAX_PAYLOAD_BYTES + 1))


def test_each_malformed_field_is_named(result: PerceptionResult) -> None:
    def refuse(message: pb.QueueItem, complaint: str) -> None:
        with pytest.raises(QueueError, match=complaint):
            decode(message.SerializeToString())

    message = message_of(result)
    message.result.detections[2].label = "dragon"
    refuse(message, "label 'dragon' is none of car")
    message = message_of(result)
    message.result.detections[2].attribute = "flying"
    refuse(message, "attribute 'flying'")
    message = message_of(result)
    message.result.detections[2].center_m.append(1.0)
    refuse(message, "3 numbers in center_m")
    message = message_of(result)
    message.result.path_hints[1].times_s.append(1.0)
    refuse(message, "same times_s")
    message = message_of(result)
    message.result.sensors[0].modality = "sonar"
    refuse(message, "sonar")
    message = message_of(result)
    message.result.provenance.ego_motion = ""
    refuse(message, "MotionSource")
    message = message_of(result)
    message.result.world_SE3_ego.quaternion_wxyz[:] = [1.0]
    refuse(message, "4 in quaternion_wxyz")
    message = message_of(result)
    message.result.world_SE3_ego.quaternion_wxyz[:] = [1e308] * 4
    refuse(message, "unit length")
    message = message_of(result)
    message.result.sequence = 2**63
    refuse(message, "sequence must be between")
    message = message_of(result)
    message.result.drive_id = "x" * 10_000
    refuse(message, "drive_id has 10000 characters")
    message = message_of(result)
    message.result.sensors.extend([message.result.sensors[0]] * 2_000)
    refuse(message, "sensors has 2002 entries")


def test_lines_that_are_no_result_are_refused(result: PerceptionResult) -> None:
    line = to_json(result)
    fields = json.loads(line)
    for broken in (
        "",
        "[]",
        "null",
        line[:-5],
        '{"end_of_run": {"count": 3}}',
        json.dumps({**fields, "sequence": "7"}),
        json.dumps({**fields, "sequence": -1}),
        json.dumps({**fields, "target_speed_mps": None}),
        json.dumps({**fields, "published_ns": 2**70}),
        json.dumps({**fields, "world_SE3_ego": {"position_m": [0, 0, 0], "quaternion_wxyz": [1e308] * 4}}),
        line.replace('"yaw_rad":', '"yaw_rad":1e300,"was":', 1),
        json.dumps({name: value for name, value in fields.items() if name != "sensors"}),
        line.replace('"pedestrian"', '"dragon"'),
        line.replace('"score":0.', '"score":7.', 1),
        line.replace('"modality":"camera"', '"modality":"sonar"'),
    ):
        with pytest.raises(QueueError):
            from_json(broken)


def test_a_reader_ignores_fields_of_a_newer_writer(result: PerceptionResult) -> None:
    # Field 900, wire type 2, three bytes: what a later version might append to the envelope.
    assert isinstance(decode(encode(result) + b"\xa2\x38\x03new"), PerceptionResult)


def test_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, str(PROTO)], cwd=ROOT, check=True)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = PROTO.with_name(PROTO.stem + suffix)
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), f"run `make proto`: {name} is out of date"
