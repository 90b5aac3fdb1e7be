"""The recorder of MCAP drives: what other tools find in its files, rotation, refusals."""

import contextlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from mcap_protobuf.decoder import DecoderFactory

from perception.cli.recording import open_recorder
from perception.core.errors import DriveError, UsageError
from perception.core.geometry import quaternion_to_rotation
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep, RadarScan, RouteCommand
from perception.core.results import EndOfRun
from perception.core.rig import Modality
from perception.pipeline.recording import result_format
from perception.queues.codec import encode
from perception.queues.samples import sample_result
from perception.recorders.mcap import McapRecorder
from perception.recorders.mcap_files import Rotation
from perception.sources.mcap import McapSource
from perception.sources.open import open_drive
from perception.sources.synthetic import SyntheticSource
from tests.unit.small_mcap import assert_same, assert_same_drives, record_drive


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mcap") / "drive.mcap"
    record_drive(SyntheticSource(seed=1, duration_s=1.0), path)
    return path


def _decoded(path: Path) -> dict[str, list[Any]]:
    """Messages by topic as the mcap library, with its protobuf support, finds and decodes them."""
    found: dict[str, list[Any]] = defaultdict(list)
    factory = DecoderFactory()
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            assert schema is not None
            if channel.message_encoding == "json":
                assert json.loads(schema.data)["type"] == "object"
                found[channel.topic].append(json.loads(message.data))
            else:
                decoder = factory.decoder_for(channel.message_encoding, schema)
                assert decoder is not None
                found[channel.topic].append(decoder(message.data))
    return found


def test_the_drive_comes_back_bit_by_bit(recorded: Path) -> None:
    made = SyntheticSource(seed=1, duration_s=1.0)
    source = open_drive(str(recorded))
    assert isinstance(source, McapSource)
    assert_same_drives(made, source)
    assert source.notes == made.notes


def test_another_reader_finds_every_message_in_foxgloves_schemas(recorded: Path) -> None:
    made = SyntheticSource(seed=1, duration_s=1.0)
    found, given = _decoded(recorded), list(made.messages())
    counts = Counter(type(message) for message in given)
    topics = {Modality.CAMERA: "image", Modality.LIDAR: "points", Modality.RADAR: "points"}
    read = {
        modality: sum(len(found[f"/{sensor.name}/{topic}"]) for sensor in made.rig.of(modality))
        for modality, topic in topics.items()
    }
    assert read == {
        Modality.CAMERA: counts[CameraFrame],
        Modality.LIDAR: counts[LidarSweep],
        Modality.RADAR: counts[RadarScan],
    }
    assert len(found["/ego/motion"]) == counts[EgoState]
    assert len(found["/route"]) == counts[RouteCommand]
    assert len(found["/ego/pose"]) == counts[EgoState]
    assert len(found["/labels/boxes"]) == len(found["/labels"]) == len(made.label_times_ns)
    image = found["/CAM_FRONT/image"][0]
    assert image.DESCRIPTOR.full_name == "foxglove.CompressedImage"
    assert image.data == next(m for m in given if isinstance(m, CameraFrame) and m.sensor == "CAM_FRONT").data


def test_transforms_and_calibration_say_what_the_rig_says(recorded: Path) -> None:
    rig, found = SyntheticSource(seed=1, duration_s=1.0).rig, _decoded(recorded)
    mounts = {transform.child_frame_id: transform for transform in found["/tf"][0].transforms}
    assert mounts.keys() == {sensor.name for sensor in rig.sensors}
    for sensor in rig.sensors:
        turn, shift = mounts[sensor.name].rotation, mounts[sensor.name].translation
        rotation = quaternion_to_rotation(np.array([turn.w, turn.x, turn.y, turn.z]))
        assert np.allclose(rotation, sensor.ego_SE3_sensor[:3, :3])
        assert [shift.x, shift.y, shift.z] == sensor.ego_SE3_sensor[:3, 3].tolist()
        if sensor.camera is not None:
            (calibration,) = found[f"/{sensor.name}/calibration"]
            assert (calibration.width, calibration.height) == (sensor.camera.width_px, sensor.camera.height_px)
            assert list(calibration.K) == sensor.camera.intrinsic.ravel().tolist()


def test_boxes_of_labels_are_cubes_where_the_labels_are(recorded: Path) -> None:
    made, found = SyntheticSource(seed=1, duration_s=1.0), _decoded(recorded)
    labels = made.labels(made.label_times_ns[0])
    assert labels is not None
    cubes = [entity.cubes[0] for entity in found["/labels/boxes"][0].entities]
    assert np.allclose([[c.pose.position.x, c.pose.position.y, c.pose.position.z] for c in cubes], labels.center_m)
    assert np.allclose([[c.size.x, c.size.y, c.size.z] for c in cubes], labels.size_m)


def test_checksums_hold_record_by_record(recorded: Path) -> None:
    with recorded.open("rb") as file:
        assert sum(1 for _ in StreamReader(file, validate_crcs=True).records) > 10


@pytest.mark.parametrize("rotation", [Rotation(max_bytes=400_000), Rotation(max_ns=250_000_000)])
def test_files_of_a_rotating_recorder_open_alone_and_together(
    tmp_path: Path, rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.recorders.mcap_files.CHUNK_BYTES", 100_000)
    made = SyntheticSource(seed=1, duration_s=1.0)
    files = record_drive(made, tmp_path / "drive.mcap", rotation=rotation)
    assert len(files) >= 3
    assert_same_drives(made, open_drive(str(tmp_path)))
    alone = [open_drive(str(file)) for file in files]
    assert sum(len(list(source.messages())) for source in alone) == len(list(made.messages()))
    for source in alone:
        assert_same(source.rig, made.rig)
        assert any("one file of a recording of several" in note for note in source.notes)
    files[1].unlink()
    assert any("parts 1 of the recording are missing" in note for note in open_drive(str(tmp_path)).notes)


def test_of_several_recordings_in_a_folder_one_is_chosen(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        record_drive(SyntheticSource(seed=seed, duration_s=0.3), tmp_path / f"{name}.mcap")
    assert open_drive(str(tmp_path)).drive_id == SyntheticSource(seed=0, duration_s=0.3).drive_id
    chosen = open_drive(str(tmp_path), scene="b.mcap")
    assert chosen.drive_id == SyntheticSource(seed=1, duration_s=0.3).drive_id


def test_results_are_kept_as_the_queue_carries_them(tmp_path: Path) -> None:
    made, path = SyntheticSource(seed=1, duration_s=0.3), tmp_path / "drive.mcap"
    result = sample_result(np.random.default_rng(1), sequence=0)
    end = EndOfRun(drive_id=result.drive_id, run_id=result.run_id, count=1, reason="completed")
    with contextlib.closing(
        McapRecorder(path, made.rig, made.drive_id, results=result_format(), provenance={"source": "made up"})
    ) as recorder:
        for message in made.messages():
            recorder.write(message)
        recorder.write(result)
        recorder.write(end)
    source = McapSource(path)
    assert list(source.results()) == [encode(result), encode(end)]
    assert source.provenance == {"source": "made up"}
    (scene,) = _decoded(path)["/perception/boxes"]
    assert sum(1 for entity in scene.entities if entity.cubes) == len(result.detections)
    assert len(list(source.messages())) == len(list(made.messages()))


def test_a_start_within_the_drive_gives_what_arrives_from_then_on(recorded: Path) -> None:
    source = McapSource(recorded)
    every = list(source.messages())
    for arrival_ns in (every[0].arrival_ns, every[len(every) // 2].arrival_ns, every[-1].arrival_ns + 1):
        wanted = [message for message in every if message.arrival_ns >= arrival_ns]
        for one, other in zip(wanted, source.messages_from(arrival_ns), strict=True):
            assert_same(one, other)


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    made = SyntheticSource(seed=1, duration_s=0.3)
    message = next(m for m in made.messages() if isinstance(m, LidarSweep))
    path = tmp_path / "drive.mcap"
    with contextlib.closing(McapRecorder(path, made.rig, "a")) as recorder:
        with pytest.raises(DriveError, match="results cannot be recorded without their format"):
            recorder.write(sample_result(np.random.default_rng(1), sequence=0))
        recorder.write(message)
        early = EgoState(world_SE3_ego=None, capture_ns=0, arrival_ns=message.arrival_ns - 1)
        with pytest.raises(DriveError, match="came after a later one"):
            recorder.write(early)
        stranger = CameraFrame(sensor="dog", capture_ns=0, arrival_ns=message.arrival_ns, data=b"")
        with pytest.raises(DriveError, match="dog: not a sensor of the rig"):
            recorder.write(stranger)
        infinite = EgoState(
            world_SE3_ego=None, velocity_mps=np.array([np.inf, 0]), capture_ns=0, arrival_ns=message.arrival_ns
        )
        with pytest.raises(DriveError, match="infinite"):
            recorder.write(infinite)
    with pytest.raises(DriveError, match="closed"):
        recorder.write(message)
    with pytest.raises(DriveError, match="exists already"):
        McapRecorder(path, made.rig, "a")
    with pytest.raises(UsageError, match="exists already"):
        open_recorder(path, made)


def _write_often(recorder: McapRecorder, message: AnyMessage) -> None:
    for _ in range(1000):
        recorder.write(message)


def test_a_full_disk_is_an_error_and_leaves_what_was_written(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    made = SyntheticSource(seed=1, duration_s=0.5)
    recorder = McapRecorder(tmp_path / "drive.mcap", made.rig, "a")
    files = recorder._files
    assert files._stream is not None
    with Path("/dev/full").open("wb") as full:
        writer: Any = files._writer
        writer._Writer__stream = full
        writer._Writer__chunk_size = 1000
        message = next(iter(made.messages()))
        with pytest.raises(DriveError, match="No space left"):
            _write_often(recorder, message)
        with contextlib.suppress(OSError):
            full.close()
    recorder.close()
