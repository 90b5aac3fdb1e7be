"""A drive as states only, a few kilobytes a second, from which it can be rendered again with other sensors.

File: the magic line, then blocks of a 4-byte little-endian length and that many bytes of zlib-packed MessagePack. The
first block says which world it is; each further one is a step. Only actors that changed since the step before are
written, so what stands costs nothing. A file that was cut off reads up to its last whole block.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import quaternion_to_rotation, rotation_from_yaw, rotation_to_quaternion, yaw_of
from perception.core.messages import Signal
from sim.driven_world import DrivenWorld
from sim.ego_track import EgoKnot
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
EGO_ROW: Final = np.dtype([("time_ns", "<i8"), ("state", "<f8", 3), ("rate", "<f8", 3)])
STEP_NS: Final = 100_000_000


class Header(msgspec.Struct, frozen=True):
    """Which world the states belong to. scenario: its settings as plain data."""

    scenario: dict[str, Any]


class Step(msgspec.Struct, frozen=True, array_like=True):
    """Changes since the step before. rows: `ROW` records. new: model names of actors seen for the first time.

    ego: `EGO_ROW` records since the step before, this step's time the last. signal: of the next light on the route.
    """

    time_ns: int
    ego: bytes
    rows: bytes
    gone: list[int]
    new: dict[int, str]
    lamps: dict[int, str]
    signal: Signal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoggedStep:
    """One step as read back. ego: knots since the step before."""

    actors: ActorStates
    ego: tuple[EgoKnot, ...]
    lamps: Mapping[int, str]
    signal: Signal


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

    def write(
        self, actors: ActorStates, ego: Sequence[EgoPose], lamps: Mapping[int, str], signal: Signal = Signal.UNKNOWN
    ) -> None:
        """One step: everybody's state at `actors.time_ns`, times rising, and the ego's on the way there."""
        rows = _pack_rows(actors)
        packed = {int(row["actor"]): row.tobytes() for row in rows}
        names = dict(zip(packed, actors.model, strict=True))
        step = Step(
            time_ns=actors.time_ns,
            ego=_pack_ego(ego),
            rows=b"".join(data for actor, data in packed.items() if self._last.get(actor) != data),
            gone=[actor for actor in self._last if actor not in packed],
            new={actor: names[actor] for actor in packed if actor not in self._last},
            lamps=dict(lamps),
            signal=signal,
        )
        self._last = packed
        self._append(msgspec.msgpack.encode(step))

    @property
    def is_closed(self) -> bool:
        """Also after a write that failed."""
        return self._file.closed

    def close(self) -> None:
        self._file.close()

    def _append(self, data: bytes) -> None:
        block = zlib.compress(data, 6)
        try:
            self._file.write(struct.pack("<I", len(block)) + block)
            self._file.flush()
        except OSError as error:
            # Closing now drops what is buffered: later it would fail once more.
            with contextlib.suppress(OSError):
                self._file.close()
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


def read_steps(path: Path) -> Iterator[LoggedStep]:
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
        yield LoggedStep(
            actors=_unpack_rows(step.time_ns, rows, models),
            ego=_unpack_ego(step.ego),
            lamps=step.lamps,
            signal=step.signal,
        )


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


def _pack_ego(poses: Sequence[EgoPose]) -> bytes:
    rows = np.zeros(len(poses), dtype=EGO_ROW)
    for row, pose in zip(rows, poses, strict=True):
        rotation = pose.world_SE3_ego[:3, :3]
        yaw = float(yaw_of(rotation))
        velocity = rotation_from_yaw(yaw)[:2, :2] @ pose.velocity_mps
        row["time_ns"] = pose.time_ns
        row["state"] = (*pose.world_SE3_ego[:2, 3], yaw)
        row["rate"] = (*velocity, pose.yaw_rate_radps)
    return rows.tobytes()


def _unpack_ego(data: bytes) -> tuple[EgoKnot, ...]:
    rows = np.frombuffer(data, dtype=EGO_ROW)
    return tuple(
        EgoKnot(time_ns=int(row["time_ns"]), state=row["state"].copy(), rate=row["rate"].copy()) for row in rows
    )


class LogTap:
    """Writes a world's states as it advances, a step every `STEP_NS`, the ego twice as often."""

    def __init__(self, path: Path, scenario: dict[str, Any], world: DrivenWorld) -> None:
        self._writer = WorldLogWriter(path, Header(scenario=scenario))
        self._world = world
        self._written_ns = -STEP_NS
        self._seen_ns = 0

    def write_until(self, time_ns: int) -> None:
        """Write all whole steps up to a time that the world knows."""
        self._seen_ns = max(self._seen_ns, time_ns)
        while self._written_ns + STEP_NS <= time_ns:
            self._write(self._written_ns + STEP_NS)

    def close(self) -> None:
        """Write the rest of the last step and end the file."""
        if self._seen_ns > self._written_ns and not self._writer.is_closed:
            self._write(self._seen_ns)
        self._writer.close()

    def _write(self, time_ns: int) -> None:
        world, before = self._world, max(self._written_ns, 0)
        middle = (before + time_ns) // 2
        knots = [world.ego_at(at) for at in sorted({middle, time_ns}) if at > self._written_ns]
        self._writer.write(
            world.actors_at(time_ns), knots, world.signal_lamps_at(time_ns), world.next_signal(time_ns)[0]
        )
        self._written_ns = time_ns
