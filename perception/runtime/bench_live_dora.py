"""The same work as a dora-rs dataflow: a source, a node that runs the model, a consumer; each a process.

`dora` carries the payloads as they are (JPEG bytes, points) from source to model, and the serialised results from
model to consumer. Which messages make up a frame is given, as for the bare loop.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from perception.core.errors import EngineError

QUEUE_SIZE = 1000
"""Inputs that a node may lag behind before dora drops the oldest."""
GRACE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoraPlan:
    """What the nodes are told. folder: where the drive lies and where the consumer writes what came."""

    folder: str
    rate: float
    seconds: float
    model: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoraFrame:
    """One frame as its consumer had it. decoded_ns: when it was a result again; model_ns as in `PlainFrame`."""

    sequence: int
    due_ns: int
    model_ns: int
    received_ns: int
    decoded_ns: int


def why_no_dora() -> str | None:
    """Why the dataflow cannot run here; None where it can."""
    if importlib.util.find_spec("dora") is None:
        return "dora-rs is not installed; pip install 'perception[bench]'"
    if _program() is None:
        return "the program `dora` is not installed; pip install 'perception[bench]'"
    return None


def run_dora(plan: DoraPlan) -> list[DoraFrame]:
    """Run the dataflow to its end; the frames that reached the consumer. Raises EngineError where it fails."""
    folder = Path(plan.folder)
    (folder / "dora_plan.json").write_text(json.dumps(asdict(plan)))
    flow = folder / "dora_flow.yml"
    flow.write_text(yaml.safe_dump(_flow(folder)))
    program = _program()
    assert program is not None
    log = folder / "dora.log"
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                [program, "run", str(flow)],
                cwd=folder, stdout=output, stderr=subprocess.STDOUT, timeout=plan.seconds + GRACE_S,
                env={**os.environ, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "20000")}, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EngineError(f"the dora dataflow did not end within {plan.seconds + GRACE_S:.0f} s") from None
    received = folder / "dora_received.json"
    if code or not received.exists():
        raise EngineError(f"the dora dataflow failed ({code}): {log.read_text(errors='replace')[-500:]}")
    return [DoraFrame(**one) for one in json.loads(received.read_text())]


def _program() -> str | None:
    beside = Path(sys.executable).parent / "dora"
    return str(beside) if beside.exists() else shutil.which("dora")


def _flow(folder: Path) -> dict[str, object]:
    def node(role: str, inputs: dict[str, str], outputs: list[str]) -> dict[str, object]:
        return {
            "id": role,
            "path": sys.executable,
            "args": f"-m perception.runtime.bench_live_dora_node {role} {folder}",
            "inputs": {name: {"source": source, "queue_size": QUEUE_SIZE} for name, source in inputs.items()},
            "outputs": outputs,
        }

    return {
        "nodes": [
            node("source", {"ready": "model/ready"}, ["message"]),
            node("model", {"message": "source/message"}, ["result", "ready"]),
            node("consumer", {"result": "model/result"}, []),
        ]
    }
