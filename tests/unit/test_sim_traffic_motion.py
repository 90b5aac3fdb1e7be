"""From steps to motion: bodies follow their front like real ones, states are smooth, jumps fade."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.actors.pool import build_pool
from sim.traffic_motion import Dragged, Dragger, Knot, Steadied, match, signal_color, stretch
from sim.traffic_types import TrafficFrame, fleet_of

POOL = build_pool(0)
FLEET = fleet_of(POOL)
STEP_S = 0.1
SEMI = next(index for index, entry in enumerate(FLEET) if entry.trailer is not None)
SALOON = next(index for index, entry in enumerate(FLEET) if entry.kind == "saloon")
ADULT = next(index for index, entry in enumerate(FLEET) if entry.kind == "adult")


def _frame(fleet: int, x: float, y: float, yaw: float, raised: bool = False) -> TrafficFrame:
    return TrafficFrame(
        actor_id=np.array([10]),
        fleet=np.array([fleet]),
        front_m=np.array([[x, y]]),
        yaw_rad=np.array([yaw]),
        is_raised=np.array([raised]),
        ego=np.zeros(4),
        signals={},
    )


def _circle(fleet: int, radius: float, speed: float, steps: int) -> list[Knot]:
    dragger = Dragger(FLEET, POOL, 0.12, STEP_S)
    angles = speed * STEP_S / radius * np.arange(steps)
    return [dragger.knot(_frame(fleet, radius * np.cos(a), radius * np.sin(a), a + np.pi / 2)) for a in angles]


def test_a_car_on_a_circle_cuts_in_with_its_rear_axle_as_a_bicycle_model_does() -> None:
    radius, actor = 15.0, POOL.actors[FLEET[SALOON].model]
    x, y, yaw, _, _ = _circle(SALOON, radius, 6.0, 200)[-1].state[0]
    axle = np.array([x, y]) + actor.rear_axle_m * np.array([np.cos(yaw), np.sin(yaw)])
    reach = actor.length_m / 2 - actor.rear_axle_m
    # The rear axle moves along its own heading: on the circle whose tangent passes the front at that reach.
    assert np.isclose(np.linalg.norm(axle), np.sqrt(radius**2 - reach**2), atol=0.03)
    assert abs(axle @ np.array([np.cos(yaw), np.sin(yaw)])) < 0.05


def test_a_trailer_swings_behind_its_tractor() -> None:
    knots = _circle(SEMI, 25.0, 5.0, 400)
    tractor, trailer = POOL.actors[FLEET[SEMI].model], POOL.actors[str(FLEET[SEMI].trailer)]
    assert list(knots[-1].actor_id) == [10, 11]
    first, second = knots[-1].state
    assert tractor.hitch_m is not None
    assert trailer.kingpin_m is not None
    pins = [
        row[:2] + reach * np.array([np.cos(row[2]), np.sin(row[2])])
        for row, reach in ((first, tractor.hitch_m), (second, trailer.kingpin_m))
    ]
    assert np.allclose(pins[0], pins[1]), "coupled at the kingpin"
    assert 0.1 < first[2] - second[2] < 1.0, "the trailer lags in a left bend"
    axle = second[:2] + trailer.rear_axle_m * np.array([np.cos(second[2]), np.sin(second[2])])
    assert np.linalg.norm(axle) < np.linalg.norm(pins[0]), "and cuts the corner"


def test_standing_bodies_do_not_turn() -> None:
    dragger = Dragger(FLEET, POOL, 0.12, STEP_S)
    yaws = [dragger.knot(_frame(SALOON, 0.0, 0.0, yaw)).state[0, 2] for yaw in (0.3, 2.0, -1.0)]
    assert yaws == [0.3, 0.3, 0.3]


def test_walkers_are_lifted_on_pavements() -> None:
    dragger = Dragger(FLEET, POOL, 0.12, STEP_S)
    heights = [dragger.knot(_frame(ADULT, 0.1 * k, 0.0, 0.0, raised=k > 1)).state[0, 4] for k in range(4)]
    assert heights == [0.0, 0.0, 0.12, 0.12]


def test_velocity_is_the_derivative_of_position_and_both_are_continuous() -> None:
    knots = _circle(SALOON, 12.0, 7.0, 12)
    pieces = [
        stretch(k * 100_000_000, STEP_S, (knots[k - 1], knots[k], knots[k + 1], knots[k + 2])) for k in range(4, 8)
    ]
    for piece in pieces:
        for at in np.linspace(0.01, 0.09, 5):
            time_ns = piece.start_ns + int(at * 1e9)
            (before, _), (after, _) = piece.at(time_ns - 100_000), piece.at(time_ns + 100_000)
            assert np.allclose((after - before) / 2e-4, piece.at(time_ns)[1], atol=1e-4)
    for one, other in pairwise(pieces):
        for left, right in zip(one.at(other.start_ns), other.at(other.start_ns), strict=True):
            assert np.allclose(left, right, atol=1e-9)


def test_only_bodies_at_both_ends_of_a_step_are_shown() -> None:
    def knot(ids: list[int]) -> Knot:
        state = np.column_stack([ids, ids, ids, ids, ids]).astype(np.float64)
        return Knot(actor_id=np.array(ids), model=np.zeros(len(ids), dtype=np.int64), state=state)

    piece = stretch(0, STEP_S, (knot([2]), knot([1, 2, 5]), knot([2, 5, 7]), knot([7])))
    assert piece.actor_id.tolist() == [2, 5]
    assert np.allclose(piece.at(50_000_000)[0][:, 0], [2.0, 5.0])


@given(jump=st.floats(0.5, 8.0), at=st.integers(5, 20))
@settings(max_examples=30, deadline=None)
def test_a_jump_of_sumo_fades_and_a_change_of_speed_is_kept(jump: float, at: int) -> None:
    steadied, shown = Steadied.nothing(), []
    for k in range(80):
        raw = np.array([[1.0 * k + (jump if k >= at else 0.0), 0.0]])
        steadied = steadied.moved(np.array([3]), raw, np.array([0.15]), STEP_S)
        shown.append(float((raw + steadied.offset_m)[0, 0]))
    speed = np.diff(shown) / STEP_S
    assert np.abs(np.diff(speed)).max() < 0.35 * jump / STEP_S, "spread over many steps"
    assert abs(shown[-1] - (79.0 + jump)) < 0.05 * jump

    steadied, shown = Steadied.nothing(), []
    for k in range(60):
        raw = np.array([[0.14 * max(0, k - at), 0.0]])
        steadied = steadied.moved(np.array([3]), raw, np.array([0.08]), STEP_S)
        shown.append(float((raw + steadied.offset_m)[0, 0]) - float(raw[0, 0]))
    assert max(map(abs, shown)) < 0.15, "a walker that sets off is not held back by more than one step"


def test_newcomers_and_leavers_do_not_disturb_others() -> None:
    body = Dragged.nothing()
    for k, ids in enumerate(([4, 9], [4, 7, 9], [7, 9], [9])):
        pull = np.array([[k * 1.0, float(i)] for i in ids])
        body = body.pulled(np.array(ids), pull, np.zeros(len(ids)), np.full(len(ids), 2.0))
        assert np.allclose(body.yaw_rad, 0.0)
    assert body.way_m.tolist() == [3.0]
    row, is_known = match(np.array([1, 4, 8]), np.array([4, 8, 9]))
    assert is_known.tolist() == [False, True, True]
    assert row[1:].tolist() == [0, 1]


def test_signal_letters() -> None:
    state = {"a": "GgyrRuo"}
    lamps = [signal_color(state, "a", link) for link in range(7)]
    assert lamps == ["lamp_green"] * 2 + ["lamp_yellow"] + ["lamp_red"] * 2 + ["lamp_yellow"] * 2
