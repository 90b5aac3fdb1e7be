"""A drive as states only, a few kilobytes a second, from which it can be rendered again with other sensors.

File: the magic line, then blocks of a 4-byte little-endian length and that many bytes of zlib-packed MessagePack. The
first block says which world it is; each further one is a step. Only actors that changed since the step before are
written, so what stands costs nothing. A file that was cut off reads up to its last whole block.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import quaternion_to_rotation, rotation_to_quaternion
from sim.scene import ActorStates, EgoPose

F64 = NDArray[np.float64]

MAGIC: Final = b"WORLDLOG1\n"
ROW: Final = np.dtype(
    [
        ("actor", "<i4"),
        ("phase", "<u2"),
        ("attribute", "<i2"),
        ("position_m", "<f8", 3),
        ("quaternion_wxyz", "<f4", 4),
        ("velocity_mps", "<f4", 3),
        ("yaw_rate_radps", "<f4"),
    ]
)


class Header(msgspec.Struct, frozen=True):
    """Which world the states belong to. scenario: its settings as plain data."""

    scenario: dict[str, Any]
    start_ns: int


class Step(msgspec.Struct, frozen=True, array_like=True):
    """Changes since the step before. rows: `ROW` records. new: model names of actors seen for the first time."""

    time_ns: int
    ego: bytes
    rows: bytes
    gone: list[int]
    new: dict[int, str]
    lamps: dict[int, str]


class WorldLogWriter:
    """Appends steps to a file. Raises DriveError where the disk refuses; what was written stays readable."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._last: dict[int, bytes] = {}
        try:
            self._file = path.open("wb")
            self._file.write(MAGIC)
        except OSError as error:
            raise DriveError(f"{path}: cannot write the world log: {error}") from error
        self._append(msgspec.msgpack.encode(header))

    def write(self, actors: ActorStates, ego: EgoPose, lamps: Mapping[int, str]) -> None:
        """One step: everybody's state at `ego.time_ns`, times rising."""
        rows = _pack_rows(actors)
        packed = {int(row["actor"]): row.tobytes() for row in rows}
        names = dict(zip(packed, actors.model, strict=True))
        step = Step(
            time_ns=ego.time_ns,
            ego=_pack_ego(ego),
            rows=b"".join(data for actor, data in packed.items() if self._last.get(actor) != data),
            gone=[actor for actor in self._last if actor not in packed],
            new={actor: names[actor] for actor in packed if actor not in self._last},
            lamps=dict(lamps),
        )
        self._last = packed
        self._append(msgspec.msgpack.encode(step))

    def close(self) -> None:
        self._file.close()

    def _append(self, data: bytes) -> None:
        block = zlib.compress(data, 6)
        try:
            self._file.write(struct.pack("<I", len(block)) + block)
            self._file.flush()
        except OSError as error:
            raise DriveError(f"{self._path}: cannot write the world log: {error}") from error


def read_header(path: Path) -> Header:
    """Raises DriveError where the file is no world log."""
    first = next(_blocks(path), None)
    if first is None:
        raise DriveError(f"{path}: the world log has no header; it was cut off or is empty")
    try:
        return msgspec.msgpack.decode(first, type=Header)
    except msgspec.DecodeError as error:
        raise DriveError(f"{path}: the world log's header cannot be read: {error}") from error


def read_steps(path: Path) -> Iterator[tuple[ActorStates, EgoPose, dict[int, str]]]:
    """The states of each step in order of time. Raises DriveError where a block is damaged."""
    blocks = _blocks(path)
    next(blocks, None)
    rows: dict[int, bytes] = {}
    models: dict[int, str] = {}
    for block in blocks:
        try:
            step = msgspec.msgpack.decode(block, type=Step)
            changed = np.frombuffer(step.rows, dtype=ROW)
        except (msgspec.DecodeError, ValueError) as error:
            raise DriveError(f"{path}: a step of the world log cannot be read: {error}") from error
        models.update(step.new)
        for actor in step.gone:
            rows.pop(actor, None)
        for row in changed:
            rows[int(row["actor"])] = row.tobytes()
        yield _unpack_rows(step.time_ns, rows, models), _unpack_ego(step.time_ns, step.ego), step.lamps


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DriveError(f"{path}: not a world log")
            while len(size := file.read(4)) == 4:
                data = file.read(struct.unpack("<I", size)[0])
                if len(data) < struct.unpack("<I", size)[0]:
                    return
                yield zlib.decompress(data)
    except (OSError, zlib.error) as error:
        raise DriveError(f"{path}: cannot read the world log: {error}") from error


def _pack_rows(actors: ActorStates) -> NDArray[Any]:
    rows = np.zeros(len(actors), dtype=ROW)
    rows["actor"], rows["phase"], rows["attribute"] = actors.actor_id, actors.phase, actors.attribute_index
    rows["position_m"] = actors.world_SE3_actor[:, :3, 3]
    for i, pose in enumerate(actors.world_SE3_actor):
        rows["quaternion_wxyz"][i] = rotation_to_quaternion(pose[:3, :3])
    rows["velocity_mps"], rows["yaw_rate_radps"] = actors.velocity_mps, actors.yaw_rate_radps
    return rows


def _unpack_rows(time_ns: int, packed: Mapping[int, bytes], models: Mapping[int, str]) -> ActorStates:
    order = sorted(packed)
    rows = np.frombuffer(b"".join(packed[actor] for actor in order), dtype=ROW)
    pose = np.tile(np.eye(4), (len(rows), 1, 1))
    if len(rows):
        pose[:, :3, :3] = quaternion_to_rotation(rows["quaternion_wxyz"])
    pose[:, :3, 3] = rows["position_m"]
    return ActorStates(
        time_ns=time_ns,
        actor_id=rows["actor"].astype(np.int64),
        model=tuple(models[actor] for actor in order),
        phase=rows["phase"].astype(np.int64),
        world_SE3_actor=pose,
        velocity_mps=rows["velocity_mps"].astype(np.float64),
        yaw_rate_radps=rows["yaw_rate_radps"].astype(np.float64),
        attribute_index=rows["attribute"].astype(np.int64),
    )


def _pack_ego(ego: EgoPose) -> bytes:
    values = np.concatenate([ego.world_SE3_ego[:3].ravel(), ego.velocity_mps, [ego.yaw_rate_radps]])
    return values.astype("<f8").tobytes()


def _unpack_ego(time_ns: int, data: bytes) -> EgoPose:
    values = np.frombuffer(data, dtype="<f8")
    pose = np.eye(4)
    pose[:3] = values[:12].reshape(3, 4)
    return EgoPose(
        time_ns=time_ns, world_SE3_ego=pose, velocity_mps=values[12:14].copy(), yaw_rate_radps=float(values[14])
    )
