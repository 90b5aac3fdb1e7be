"""One node of the dataflow of `bench_live_dora`: `python -m perception.runtime.bench_live_dora_node ROLE FOLDER`."""

import json
import sys
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from dora import Node

from perception.config.schema import ModelChoice, SyncConfig
from perception.core.messages import AnyMessage
from perception.pipeline.stages import Stages, open_model
from perception.queues.codec import decode
from perception.runtime.bench_live_bare import PlainLoop
from perception.runtime.bench_live_dora import DoraFrame, DoraPlan
from perception.runtime.bench_live_drive import EndlessDrive, PlannedFrame, plan_frames
from perception.runtime.bench_live_wire import pack, unpack

SETTLE_S = 1.0
"""Dora loses what is sent before its direct paths between nodes are up."""


def main() -> None:
    role, folder = sys.argv[1], Path(sys.argv[2])
    plan = DoraPlan(**json.loads((folder / "dora_plan.json").read_text()))
    {"source": run_source, "model": run_model, "consumer": run_consumer}[role](Node(), plan)


def run_source(node: Any, plan: DoraPlan) -> None:
    """Send each message when it is due, once the model is loaded."""
    _, messages = _drive(plan)
    packed = [pack(message) for message in messages]
    while node.next()["type"] != "INPUT":
        pass
    time.sleep(SETTLE_S)
    begun_ns, first_ns = time.monotonic_ns(), messages[0].arrival_ns
    for place, (message, (header, payload)) in enumerate(zip(messages, packed, strict=True)):
        due_ns = begun_ns + round((message.arrival_ns - first_ns) / plan.rate)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        node.send_output("message", pa.array(payload), {"place": place, "due_ns": due_ns, "header": json.dumps(header)})


def run_model(node: Any, plan: DoraPlan) -> None:
    """Encode on arrival, fuse what is complete, send the result."""
    torch.set_num_threads(plan.threads)
    drive, messages = _drive(plan)
    frames = plan_frames(drive.rig, messages, SyncConfig())
    del messages
    loop = _warm_loop(drive, plan, frames)
    node.send_output("ready", pa.array(np.zeros(1, dtype=np.uint8)), {})
    for event in node:
        if event["type"] != "INPUT":
            continue
        about = event["metadata"]
        message = unpack(json.loads(about["header"]), event["value"].to_numpy())
        done = loop.take(about["place"], message, about["due_ns"])
        if done is not None:
            told = {"sequence": done.sequence, "due_ns": done.due_ns, "model_ns": done.model_ns}
            node.send_output("result", pa.array(np.frombuffer(done.payload, dtype=np.uint8)), told)


def run_consumer(node: Any, plan: DoraPlan) -> None:
    """Decode results and write down when they were there."""
    frames = []
    for event in node:
        if event["type"] == "INPUT":
            received_ns = time.monotonic_ns()
            decode(event["value"].to_numpy().tobytes())
            about = {name: event["metadata"][name] for name in ("sequence", "due_ns", "model_ns")}
            frames.append(DoraFrame(**about, received_ns=received_ns, decoded_ns=time.monotonic_ns()))
    (Path(plan.folder) / "dora_received.json").write_text(json.dumps([asdict(frame) for frame in frames]))


def _drive(plan: DoraPlan) -> tuple[EndlessDrive, list[AnyMessage]]:
    drive = EndlessDrive.load(Path(plan.folder))
    return drive, drive.part(plan.seconds * plan.rate)


def _warm_loop(drive: EndlessDrive, plan: DoraPlan, frames: list[PlannedFrame]) -> PlainLoop:
    """A loop whose model has seen some frames already."""
    stages = Stages(open_model(ModelChoice(name=plan.model)))
    warm = PlainLoop(drive.rig, stages, frames[:5])
    for place, message in enumerate(islice(drive.messages(), frames[min(4, len(frames) - 1)].closed_by + 1)):
        warm.take(place, message, time.monotonic_ns())
    return PlainLoop(drive.rig, stages, frames)


if __name__ == "__main__":
    main()
