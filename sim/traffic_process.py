"""The process that runs SUMO: started by `sim.traffic`, fed through a pipe, one step for each request.

A process of its own because libsumo holds one simulation in global state, and because the Arrow that it was built
against quarrels with other versions in the same process.
"""

import math
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sim.traffic_demand import random_route, types_of, usable_edges, vehicle_types_xml
from sim.traffic_types import EGO, StepRequest, TrafficFrame, TrafficPlan

SUMO_OPTIONS = (
    "--lateral-resolution=0.8", "--collision.action=none", "--time-to-teleport=90", "--ignore-junction-blocker=20",
    "--no-warnings", "--no-step-log", "--xml-validation=never", "--max-depart-delay=150",
    "--pedestrian.striping.dawdling=0.3", "--default.speeddev=0.1",
)  # fmt: skip
ROUTE_EDGES = 20
CHECK_EVERY = 20
MAX_STEP_M = 12.0
"""A vehicle that moved further in one step was teleported by SUMO: from there on it is another actor."""
EGO_OFF_ROAD_M = 30.0
EGO_PATIENCE_S = 120.0


def main(descriptor: int) -> None:
    """Serve requests on an inherited pipe until it closes."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    try:
        import libsumo
    except ImportError as error:
        pipe.send(f"libsumo cannot be loaded ({error}): `perception doctor` names what is missing")
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            simulation = Simulation(libsumo, pipe.recv(), Path(folder))
            while (request := pipe.recv()) is not None:
                pipe.send(simulation.step(request))
            libsumo.close()
    except EOFError:
        return
    except Exception:
        pipe.send(traceback.format_exc(limit=-3))


class Simulation:
    """SUMO with a population that never runs dry: routes are extended before they end."""

    def __init__(self, sumo: Any, plan: TrafficPlan, folder: Path) -> None:
        self._sumo = sumo
        self._plan = plan
        self._rng = np.random.default_rng([plan.seed, 1])
        self._next_id = plan.first_id
        self._step_index = 0
        self._public: dict[str, int] = {}
        self._fleet: dict[str, int] = {}
        self._last: dict[str, tuple[float, float]] = {}
        self._wanted = dict(plan.counts)
        self._ego_at = (math.inf, math.inf)
        self._ego_row = np.zeros(4)
        self._is_ego_taken = False
        self._classes: dict[str, str] = {}
        self._usable = {name: usable_edges(plan.net, name) for name in plan.counts}
        types = folder / "types.add.xml"
        types.write_text(vehicle_types_xml(plan))
        inputs = ["sumo", "-n", str(plan.net.path), "-a", str(types), "--seed", str(plan.seed)]
        sumo.start([*inputs, "--step-length", str(plan.step_s), *SUMO_OPTIONS])
        self._fill(hidden=False)
        for _ in range(round(plan.warmup_s / plan.step_s)):
            self._advance()
        self._insert_ego()

    def step(self, request: StepRequest) -> TrafficFrame:
        """One step of SUMO, the ego where the request says."""
        if request.ego is not None:
            self._place_ego(*request.ego)
        self._advance()
        return self._frame()

    def _advance(self) -> None:
        self._sumo.simulationStep()
        self._step_index += 1
        for name in self._sumo.vehicle.getIDList():
            # The ego too: one that arrives would be removed and have no state.
            if (0 if name == EGO else int(name)) % CHECK_EVERY == self._step_index % CHECK_EVERY:
                self._extend_route(name)
        for name in self._sumo.person.getIDList():
            if int(name) % CHECK_EVERY == self._step_index % CHECK_EVERY:
                self._extend_walk(name)
        if self._step_index % CHECK_EVERY == 0:
            self._fill(hidden=True)

    def _frame(self) -> TrafficFrame:
        vehicle, person = self._sumo.vehicle, self._sumo.person
        rows = [
            self._row(name, vehicle.getPosition(name), vehicle.getAngle(name), False)
            for name in vehicle.getIDList()
            if name != EGO
        ]
        for name in person.getIDList():
            edge = person.getRoadID(name)
            # Crossings are called :junction_c0; everything else that walkers use is raised.
            is_raised = not (edge[0] == ":" and edge.rpartition("_")[2].startswith("c"))
            rows.append(self._row(name, person.getPosition(name), person.getAngle(name), is_raised))
        rows.sort()
        columns: tuple[Any, ...] = tuple(zip(*rows, strict=True)) if rows else ((),) * 6
        if EGO in vehicle.getIDList():
            (x, y), speed = vehicle.getPosition(EGO), vehicle.getSpeed(EGO)
            self._ego_row = np.array([x, y, _yaw(vehicle.getAngle(EGO)), speed])
            self._ego_at = (x, y)
        else:
            # Arrived where a map has a dead end: it stays there.
            self._ego_row = np.append(self._ego_row[:3], 0.0)
        signals = self._sumo.trafficlight
        return TrafficFrame(
            actor_id=np.array(columns[0], dtype=np.int64),
            fleet=np.array(columns[1], dtype=np.int64),
            front_m=np.array([columns[2], columns[3]], dtype=np.float64).T.reshape(-1, 2),
            yaw_rad=np.array(columns[4], dtype=np.float64),
            is_raised=np.array(columns[5], dtype=np.bool_),
            ego=self._ego_row,
            signals={name: signals.getRedYellowGreenState(name) for name in signals.getIDList()},
        )

    def _row(
        self, name: str, at: tuple[float, float], angle: float, is_raised: bool
    ) -> tuple[int, int, float, float, float, bool]:
        last = self._last.get(name, at)
        if name not in self._public or math.hypot(at[0] - last[0], at[1] - last[1]) > MAX_STEP_M:
            self._public[name] = self._new_id()
        self._last[name] = at
        return self._public[name], self._fleet[name], at[0], at[1], _yaw(angle), is_raised

    def _new_id(self) -> int:
        # Two at a time: the second is a trailer's.
        self._next_id += 2
        return self._next_id - 2

    def _insert_ego(self) -> None:
        """Put the ego at the start of its route as soon as there is a gap."""
        plan, vehicle = self._plan, self._sumo.vehicle
        self._sumo.route.add(EGO, list(plan.ego_edges))
        vehicle.add(
            EGO, EGO, typeID=EGO, departLane=str(plan.ego_lane), departPos=str(plan.ego_start_m), departSpeed="max"
        )
        for _ in range(round(EGO_PATIENCE_S / plan.step_s)):
            self._advance()
            if EGO in vehicle.getIDList():
                break
        else:
            raise RuntimeError(f"the ego found no gap on {plan.ego_edges[0]} in {EGO_PATIENCE_S:.0f} s")

    def _place_ego(self, x_m: float, y_m: float, yaw_rad: float, speed_mps: float) -> None:
        vehicle = self._sumo.vehicle
        if not self._is_ego_taken:
            self._is_ego_taken = True
            vehicle.setSpeedMode(EGO, 0)
            vehicle.setLaneChangeMode(EGO, 0)
        try:
            vehicle.moveToXY(
                EGO, "", -1, x_m, y_m, angle=90 - math.degrees(yaw_rad), keepRoute=2, matchThreshold=EGO_OFF_ROAD_M
            )
            vehicle.setSpeed(EGO, speed_mps)
        except self._sumo.TraCIException:
            # Far from any road nobody can meet it; it comes back with the next position near one.
            return

    def _fill(self, *, hidden: bool) -> None:
        """Bring each class back to its count; during the run only out of the ego's sight."""
        present = dict.fromkeys(self._wanted, 0)
        alive = {*self._sumo.vehicle.getLoadedIDList(), *self._sumo.person.getIDList()}
        for name in list(self._classes):
            if name in alive:
                present[self._classes[name]] += 1
            else:
                for table in (self._classes, self._public, self._fleet, self._last):
                    table.pop(name, None)
        for vehicle_class, wanted in self._wanted.items():
            for _ in range(wanted - present[vehicle_class]):
                self._insert(vehicle_class, hidden)

    def _insert(self, vehicle_class: str, hidden: bool) -> None:
        types, edges = types_of(self._plan.fleet, vehicle_class), self._usable[vehicle_class]
        if not types or not edges:
            return
        if hidden:
            # On a small map no place may be out of sight: then the furthest.
            edges = [name for name in edges if self._gap_m(name) > self._plan.hidden_m] or [max(edges, key=self._gap_m)]
        lengths = np.array([self._plan.net.edges[name].lanes[0].length_m for name in edges])
        edge = edges[int(self._rng.choice(len(edges), p=lengths / lengths.sum()))]
        fleet = types[int(self._rng.integers(len(types)))]
        name, entry = str(self._new_id()), self._plan.fleet[fleet]
        if vehicle_class == "pedestrian":
            if not self._insert_person(name, edge, entry.name):
                return
        else:
            route = random_route(self._plan.net, edge, vehicle_class, ROUTE_EDGES, self._rng)
            self._sumo.route.add(name, route)
            self._sumo.vehicle.add(
                name, name, typeID=entry.name, departLane="best", departPos="random_free", departSpeed="max"
            )
        self._classes[name], self._fleet[name] = vehicle_class, fleet

    def _gap_m(self, edge: str) -> float:
        """From the ego to the nearest point of an edge."""
        shape = self._plan.net.edges[edge].lanes[0].shape_m
        return float(np.hypot(shape[:, 0] - self._ego_at[0], shape[:, 1] - self._ego_at[1]).min())

    def _extend_route(self, name: str) -> None:
        vehicle = self._sumo.vehicle
        route, index = vehicle.getRoute(name), vehicle.getRouteIndex(name)
        if index < 0 or len(route) - index > ROUTE_EDGES // 2:
            return
        vehicle_class = "passenger" if name == EGO else self._classes[name]
        more = random_route(self._plan.net, route[-1], vehicle_class, ROUTE_EDGES, self._rng, route[-3:])
        if len(more) > 1:
            vehicle.setRoute(name, [*route[index:], *more[1:]])
            if vehicle_class == "bus":
                self._add_bus_stop(name, more[1])

    def _add_bus_stop(self, name: str, edge: str) -> None:
        lane = next(lane for lane in self._plan.net.edges[edge].lanes if "bus" in lane.allowed)
        length = self._sumo.lane.getLength(lane.name)
        if length > 60:
            duration = float(self._rng.uniform(6, 14))
            self._sumo.vehicle.setStop(name, edge, pos=length * 0.6, laneIndex=lane.index, duration=duration)

    def _insert_person(self, name: str, edge: str, kind: str) -> bool:
        length = self._plan.net.edges[edge].lanes[0].length_m
        walk = self._walk_from(edge)
        if not walk:
            return False
        self._sumo.person.add(name, edge, float(self._rng.uniform(0.1, 0.9)) * length, typeID=kind)
        self._append_walk(name, walk)
        return True

    def _extend_walk(self, name: str) -> None:
        if self._sumo.person.getRemainingStages(name) == 1 and (walk := self._walk_from(self._last_edge(name))):
            self._append_walk(name, walk)

    def _last_edge(self, name: str) -> str:
        return str(self._sumo.person.getStage(name, 0).edges[-1])

    def _append_walk(self, name: str, walk: list[str]) -> None:
        length = self._plan.net.edges[walk[-1]].lanes[0].length_m
        self._sumo.person.appendWalkingStage(name, walk, float(self._rng.uniform(0.2, 0.8)) * length)

    def _walk_from(self, edge: str) -> list[str]:
        """Edges to walk along to a random place, empty if there is no way in four tries."""
        usable = self._usable["pedestrian"]
        for _ in range(4):
            goal = usable[int(self._rng.integers(len(usable)))]
            stages = self._sumo.simulation.findIntermodalRoute(edge, goal)
            walks = [stage for stage in stages if stage.edges]
            if goal != edge and len(walks) == 1:
                return list(walks[0].edges)
        return []


def _yaw(angle_deg: float) -> float:
    """SUMO counts degrees clockwise from north."""
    return math.radians(90.0 - angle_deg)
