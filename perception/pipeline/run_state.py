"""The state of a run in a folder, so that another process can go on with it.

`FOLDER/run.json` is replaced as a whole after each result that the queue has stored. It is not forced to the disk: it
survives the death of the process, however it dies, and not always that of the machine, after which the run goes on from
an older state or begins anew. `FOLDER/lock` is held while a process works on the run; it goes with the process.
"""

import fcntl
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from perception.config.schema import ServiceConfig
from perception.core.errors import UsageError
from perception.models.tracker import FIRST_ID, TrackerState
from perception.pipeline.session_state import SessionState

STATE_FILE, LOCK_FILE = "run.json", "lock"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What must be the same for a run to go on: the drive, the model, the settings, and which part is played how."""

    drive_id: str
    model_hash: str
    settings: str
    part: str

    @classmethod
    def of(cls, *, drive_id: str, model_hash: str, config: ServiceConfig, part: str) -> "RunIdentity":
        deciding = {"model", "sync", "tracker", "latency"}
        settings = json.dumps(config.model_dump(mode="json", include=deciding), sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
        return cls(drive_id=drive_id, model_hash=model_hash, settings=digest, part=part)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTracks:
    """`TrackerState` and the rest of `SessionState` as plain lists; floats come back to the last bit."""

    reference_ns: int | None = None
    world_SE3_ego: list[list[float]] | None = None
    next_id: int = FIRST_ID
    track_id: list[int] = field(default_factory=list)
    class_index: list[int] = field(default_factory=list)
    seen_ns: list[int] = field(default_factory=list)
    center_m: list[list[float]] = field(default_factory=list)
    velocity_mps: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, state: SessionState) -> "SavedTracks":
        tracker, pose = state.tracker, state.world_SE3_ego
        columns = {name: getattr(tracker, name).tolist() for name in _COLUMNS}
        return cls(
            reference_ns=state.reference_ns,
            world_SE3_ego=None if pose is None else pose.tolist(),
            next_id=tracker.next_id,
            **columns,
        )

    def session(self) -> SessionState:
        pose = self.world_SE3_ego
        tracker = TrackerState(
            reference_ns=self.reference_ns,
            next_id=self.next_id,
            track_id=np.array(self.track_id, dtype=np.int64),
            class_index=np.array(self.class_index, dtype=np.int64),
            seen_ns=np.array(self.seen_ns, dtype=np.int64),
            center_m=np.array(self.center_m, dtype=np.float64).reshape(-1, 3),
            velocity_mps=np.array(self.velocity_mps, dtype=np.float64).reshape(-1, 2),
        )
        return SessionState(
            tracker=tracker,
            reference_ns=self.reference_ns,
            world_SE3_ego=None if pose is None else np.array(pose, dtype=np.float64),
        )


_COLUMNS = ("track_id", "class_index", "seen_ns", "center_m", "velocity_mps")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """How far a run has come.

    published: its results 0 to published - 1 are with the queue for good (live: may have been handed to it). handed:
    how many had been handed to it as this was written. dropped: what the published ones reported, by cause. saved_ns:
    wall time of this state. drive_ns: live, the drive's time at the last result, None before the first. restarts: how
    often another process went on with it. ended: the reason of its `EndOfRun` once that is with the queue, else None.
    """

    identity: RunIdentity
    run_id: str
    saved_ns: int
    published: int = 0
    handed: int = 0
    drive_ns: int | None = None
    tracks: SavedTracks = SavedTracks()
    dropped: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    ended: str | None = None
    schema: int = SCHEMA


class RunFolder:
    """A folder that holds a run's state, for one process at a time.

    Raises UsageError where it cannot be made or written, or another process works on its run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / LOCK_FILE).open("w")
        except OSError as error:
            raise UsageError(f"resume {path}: cannot be written ({error})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UsageError(f"resume {path}: another process is at work on this run") from None

    def load(self, identity: RunIdentity | None) -> RunState | None:
        """The state that the folder holds, None where it holds none that can be read.

        Raises UsageError where it is that of another drive, model, setting or part than `identity`, where one is given.
        """
        state = read_state(self.path)
        if state is None or identity is None:
            return state
        mine, theirs = asdict(identity), asdict(state.identity)
        if different := [name for name in mine if mine[name] != theirs[name]]:
            what = ", ".join(f"{name} {theirs[name]}, now {mine[name]}" for name in different)
            raise UsageError(f"resume {self.path}: holds the run of something else ({what}); name another folder")
        return state

    def save(self, state: RunState) -> None:
        """Replace the state. Raises UsageError where the folder cannot be written."""
        new = self.path / f"{STATE_FILE}.new"
        try:
            new.write_bytes(msgspec.json.encode(state))
            new.replace(self.path / STATE_FILE)
        except OSError as error:
            raise UsageError(f"resume {self.path}: cannot be written ({error})") from None

    def close(self) -> None:
        self._lock.close()


def read_state(folder: Path) -> RunState | None:
    """The state in a folder; None where there is none, or it was torn by the death of the machine."""
    try:
        state = msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=RunState)
    except (OSError, msgspec.MsgspecError):
        return None
    return state if state.schema == SCHEMA else None
