"""The engine that vehicles share: keys of their own, a model replaced between frames, turns taken fairly."""

import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError, ModelError
from perception.core.messages import AnyMessage, CameraFrame, Command, Signal
from perception.core.stages import CameraRequest, CameraView, FuseRequest, FusionOutput
from perception.runtime.service_engine import NotNowError, SharedEngine, VehicleEngine
from perception.runtime.service_pools import OnePool
from perception.sources.synthetic import SyntheticSource
from tests.unit.service_parts import FakeEngine, until


class Garage:
    """Starts fake engines and remembers them."""

    def __init__(self, **settings: object) -> None:
        self.engines: list[FakeEngine] = []
        self._settings = settings
        self.problem: Exception | None = None

    def start(self, choice: ModelChoice) -> OnePool:
        if self.problem is not None:
            raise self.problem
        self.engines.append(FakeEngine(choice.name, **self._settings))  # type: ignore[arg-type]
        return OnePool(self.engines[-1])


@pytest.fixture(scope="module")
def images() -> list[CameraRequest]:
    source = SyntheticSource(duration_s=0.3)
    messages: list[AnyMessage] = list(source.messages())
    frames = [message for message in messages if isinstance(message, CameraFrame)]
    requests = []
    for number, frame in enumerate(frames[:6]):
        camera = source.rig[frame.sensor].camera
        assert camera is not None
        requests.append(CameraRequest(key=f"{frame.sensor}:{number}", frame=frame, camera=camera))
    return requests


def fuse(view: VehicleEngine, image: CameraRequest, handle: object, reference_ns: int = 0) -> Future[FusionOutput]:
    request = FuseRequest(
        reference_ns=reference_ns,
        cameras=(CameraView(sensor=image.frame.sensor, camera=image.camera, reference_SE3_camera=np.eye(4), age_ns=0),),
        lidars=(),
        lidar_age_ns=(),
        radar_age_ns=None,
        speed_mps=0.0,
        yaw_rate_radps=0.0,
        command=Command.FOLLOW,
        speed_limit_mps=None,
        route_distance_m=None,
        signal=Signal.UNKNOWN,
    )
    return view.fuse(request, [handle])  # type: ignore[list-item]


def test_vehicles_with_equal_keys_do_not_meet(images: list[CameraRequest]) -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    anna, berta = shared.view("anna"), shared.view("berta")
    handles = [anna.encode(images[0]), berta.encode(images[0]), anna.encode(images[0])]
    assert len(garage.engines[0].held) == 3
    anna.release([handles[0]])
    assert len(garage.engines[0].held) == 2
    assert fuse(berta, images[0], handles[1]).result(0).model == garage.engines[0].model


def test_a_new_model_fuses_what_the_old_one_encoded_by_encoding_it_again(images: list[CameraRequest]) -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    view = shared.view("anna")
    early = view.encode(images[0])
    new = shared.replace_model(ModelChoice(name="second"), timeout_s=1.0)
    old_engine, new_engine = garage.engines
    assert (new.name, shared.model.name, old_engine.is_closed) == ("second", "second", True)
    result = fuse(view, images[0], early).result(0)
    assert result.model == new_engine.model
    assert len(new_engine.encoded) == 1
    assert new_engine.held == set(), "features that were made again are not kept"
    view.release([early])


def test_frames_under_way_are_finished_by_the_model_that_began_them(images: list[CameraRequest]) -> None:
    garage = Garage(waits=True)
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    view = shared.view("anna")
    under_way = fuse(view, images[0], view.encode(images[0]))
    swap = threading.Thread(target=shared.replace_model, args=[ModelChoice(name="second")], kwargs={"timeout_s": 60.0})
    swap.start()
    until(lambda: shared.model.name == "second")
    later = fuse(view, images[1], view.encode(images[1]))
    old_engine, new_engine = garage.engines
    assert view.frames_under_way == 2
    assert [engine.is_closed for engine in garage.engines] == [False, False], "a frame of it is under way"
    old_engine.answer()
    swap.join(60.0)
    assert old_engine.is_closed
    new_engine.answer()
    assert [future.result(0).model for future in (under_way, later)] == [old_engine.model, new_engine.model]
    assert view.frames_under_way == 0


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(images: list[CameraRequest]) -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    garage.problem = ModelError("no such model")
    with pytest.raises(ModelError, match="no such model"):
        shared.replace_model(ModelChoice(name="second"), timeout_s=1.0)
    assert shared.model.name == "first"
    view = shared.view("anna")
    assert fuse(view, images[0], view.encode(images[0])).result(0).model == garage.engines[0].model
    garage.problem = None
    assert shared.replace_model(ModelChoice(name="third"), timeout_s=1.0).name == "third"


def test_a_model_that_needs_other_requests_is_refused() -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))

    def start(choice: ModelChoice) -> OnePool:
        pool = garage.start(choice)
        garage.engines[-1].model = replace(garage.engines[-1].model, lidar_sweeps=5)
        return pool

    shared._start = start
    with pytest.raises(ModelError, match="takes 5 lidar sweeps at once and the model that runs 1"):
        shared.replace_model(ModelChoice(name="second"), timeout_s=1.0)
    assert [engine.is_closed for engine in garage.engines] == [False, True]
    assert (shared.model.name, shared.loads) == ("first", 1)


def test_one_model_is_loaded_at_a_time() -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    is_loading, may_go_on = threading.Event(), threading.Event()

    def slow(choice: ModelChoice) -> OnePool:
        is_loading.set()
        assert may_go_on.wait(60.0)
        return OnePool(FakeEngine(choice.name))

    shared._start = slow
    first = threading.Thread(target=shared.replace_model, args=[ModelChoice(name="second")], kwargs={"timeout_s": 1.0})
    first.start()
    assert is_loading.wait(60.0)
    with pytest.raises(NotNowError, match="another model"):
        shared.replace_model(ModelChoice(name="third"), timeout_s=1.0)
    may_go_on.set()
    first.join(60.0)
    assert shared.model.name == "second"


def test_a_broken_engine_is_started_anew_once(images: list[CameraRequest]) -> None:
    garage = Garage()
    shared = SharedEngine(garage.start, ModelChoice(name="first"))
    view = shared.view("anna")
    assert not shared.mend(timeout_s=1.0)
    garage.engines[0].fails = EngineError("an engine process died")
    with pytest.raises(EngineError):
        fuse(view, images[0], view.encode(images[0])).result(0)
    assert shared.is_broken
    assert [shared.mend(timeout_s=1.0), shared.mend(timeout_s=1.0)] == [True, False]
    assert len(garage.engines) == shared.loads == 2
    assert fuse(view, images[1], view.encode(images[1])).result(0).model == garage.engines[1].model


def test_what_was_fused_is_told(images: list[CameraRequest]) -> None:
    told: list[tuple[int, FusionOutput]] = []
    shared = SharedEngine(Garage().start, ModelChoice(name="first"))
    view = shared.view("anna", lambda request, output, asked_ns: told.append((request.reference_ns, output)))
    output = fuse(view, images[0], view.encode(images[0]), reference_ns=7).result(0)
    assert told == [(7, output)]
