"""Drives of a fleet that lie on a server that speaks S3."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from perception.config.schema import ModelChoice, ServiceConfig
from perception.core.errors import DriveError, UsageError
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.stages import open_model
from perception.recorders.mcap import McapRecorder
from perception.runtime.fleet.drive_job import DriveJob, folder_of, play_drive
from perception.runtime.fleet.inputs import DriveRef, expand
from perception.runtime.fleet.remote import PREFIX, fetched
from perception.sources.open import open_drive


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client of a bucket `drives` on loopback; the credentials are in the environment alone."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # those of the last test know another port
    client = boto3.client("s3")
    client.create_bucket(Bucket="drives")
    yield client
    server.stop()


def put(client: Any, **objects: bytes) -> None:
    for key, body in objects.items():
        client.put_object(Bucket="drives", Key=key, Body=body)


def test_folders_patterns_and_manifests_of_a_bucket(bucket: Any) -> None:
    put(bucket, **{"all/b.mcap": b"1", "all/a.mcap": b"2", "all/c/x.json": b"3", "other/d.mcap": b"4"})
    put(bucket, **{"lists/m.txt": b"one.mcap\ns3://drives/all/a.mcap#scene=2\n"})
    assert [drive.path for drive in expand(["s3://drives/all/"])] == [
        "s3://drives/all/a.mcap", "s3://drives/all/b.mcap", "s3://drives/all/c",
    ]  # fmt: skip
    assert [drive.path for drive in expand(["s3://drives/*/[ad].mcap"])] == [
        "s3://drives/all/a.mcap", "s3://drives/other/d.mcap",
    ]  # fmt: skip
    assert [drive.shown for drive in expand(["s3://drives/lists/m.txt"])] == [
        "s3://drives/lists/one.mcap", "s3://drives/all/a.mcap#scene=2",
    ]  # fmt: skip
    for missing in ("s3://drives/none/", "s3://drives/none*", "s3://drives/none.txt", "s3://nobody/here/"):
        with pytest.raises(UsageError, match=r"s3://(drives|nobody)/"):
            list(expand([missing]))


def test_a_drive_is_fetched_whole_and_removed(bucket: Any, tmp_path: Path) -> None:
    put(bucket, **{"drive/lidar/1.bin": b"abc", "drive/meta.json": b"{}", "file.mcap": b"x" * 100})
    abandoned = tmp_path / f"{PREFIX}elsewhere-1-x"
    abandoned.mkdir()
    with fetched("s3://drives/drive", max_bytes=1000, cache=tmp_path) as path:
        assert (Path(path, "lidar", "1.bin").read_bytes(), Path(path, "meta.json").read_bytes()) == (b"abc", b"{}")
        assert Path(path).name == "drive"
    with fetched("s3://drives/file.mcap", max_bytes=100, cache=tmp_path) as path:
        assert Path(path).read_bytes() == b"x" * 100
    for url, allowed, said in (
        ("s3://drives/file.mcap", 99, "--max-drive-gb"),
        ("s3://drives/none.mcap", 99, "nothing lies there"),
        ("s3://nobody/none.mcap", 99, "s3://nobody"),
    ):
        with pytest.raises(DriveError, match=said), fetched(url, max_bytes=allowed, cache=tmp_path):
            pass
    assert list(tmp_path.iterdir()) == [abandoned]  # another machine's is not ours to judge


def test_a_drive_from_s3_gives_what_it_gives_from_here(bucket: Any, tmp_path: Path) -> None:
    source = open_drive("synthetic:seed=0,duration=0.3")
    local = tmp_path / "drive.mcap"
    recorder = McapRecorder(local, source.rig, source.drive_id)
    for message in source.messages():
        recorder.write(message)
    recorder.close()
    bucket.upload_file(str(local), "drives", "one.mcap")
    engine = LocalEngine(open_model(ModelChoice()), threads=1)
    tables = []
    for path in (str(local), "s3://drives/one.mcap"):
        drive = DriveRef(path=path)
        account = play_drive(
            DriveJob(
                drive=drive, config=ServiceConfig(), out=tmp_path / "out", run="r", attempt=1, max_bytes=10**9,
                cache=tmp_path / "cache",
            ),
            engine,
        )  # fmt: skip
        assert account["state"] == "done", account
        table = pq.read_table(folder_of(tmp_path / "out", drive) / "detections.parquet")
        tables.append(table.drop_columns(["drive"]))
        assert set(table["drive"].to_pylist()) == {drive.name}
    assert len(tables[0]) > 0
    assert tables[0].equals(tables[1])
    assert not list((tmp_path / "cache").iterdir())
    for left in (tmp_path / "out").rglob("*"):
        assert left.is_dir() or b"test-secret" not in left.read_bytes()
