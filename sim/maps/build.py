"""How the shipped networks were made: `python -m sim.maps.build [FOLDER]` writes them all again (needs eclipse-sumo).

All are closed: nothing has to appear or vanish at a border. Seeds are fixed, so that the same version of SUMO (1.28)
writes the same bytes.
"""

import math
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim.maps.plain import PlainNet, Point, Street, convert, run_tool

OVAL_STRAIGHT_M, OVAL_RADIUS_M = 420.0, 400.0
"""Of the motorway: half a straight, and its bends between the carriageways."""
CROSSINGS = ("--crossings.guess", "--crossings.guess.speed-threshold=15")

RESIDENTIAL = Street(kind="residential", speed_mps=8.33, sidewalk_m=2.5, parking=True, priority=2)
TOWN = Street(kind="town", speed_mps=13.89, sidewalk_m=3.0, parking=True, priority=4)
AVENUE = Street(kind="avenue", lanes=2, speed_mps=13.89, lane_width_m=3.3, sidewalk_m=3.5, priority=6)
ARTERIAL = Street(kind="arterial", lanes=2, speed_mps=13.89, lane_width_m=3.3, sidewalk_m=3.5, bus=True, priority=8)
RURAL = Street(kind="rural", speed_mps=16.67, lane_width_m=3.5, priority=5)
LANE = Street(kind="rural", speed_mps=13.89, lane_width_m=3.2, priority=3)
MOTORWAY = Street(kind="motorway", lanes=3, speed_mps=30.56, lane_width_m=3.75, bicycles=False, priority=10)
RAMP = Street(kind="ramp", speed_mps=16.67, lane_width_m=3.75, bicycles=False, priority=7)
RING = Street(kind="roundabout", speed_mps=7.5, lane_width_m=4.2, priority=9)
APPROACH = Street(kind="town", speed_mps=13.89, sidewalk_m=2.5, priority=5)


def town_grid() -> tuple[PlainNet, tuple[str, ...]]:
    """Five by four streets, two avenues with lights, the rest gives way."""
    net = PlainNet()
    columns, rows = (0, 110, 240, 350, 470), (0, 100, 210, 330)
    for i, x in enumerate(columns):
        for j, y in enumerate(rows):
            has_lights = (i == 2 and j in (1, 2)) or (j == 1 and i in (1, 3))
            net.node(f"n{i}{j}", (x, y), "traffic_light" if has_lights else "priority")
    for i in range(5):
        for j in range(4):
            if i < 4:
                net.road(f"n{i}{j}", f"n{i + 1}{j}", AVENUE if j == 1 else RESIDENTIAL if j == 3 else TOWN)
            if j < 3:
                net.road(f"n{i}{j}", f"n{i}{j + 1}", AVENUE if i == 2 else RESIDENTIAL if i == 4 else TOWN)
    return net, CROSSINGS


def arterial() -> tuple[PlainNet, tuple[str, ...]]:
    """Two wide roads with bus lanes, gently bent, joined by five side streets with lights."""
    net = PlainNet()
    columns = (0.0, 180.0, 350.0, 540.0, 720.0)

    def bent(x: float, y: float) -> Point:
        return (x, y + 18 * math.sin(x / 150))

    for i, x in enumerate(columns):
        for name, y in (("s", 0.0), ("m", 105.0), ("n", 210.0)):
            kind = "traffic_light" if name != "m" and 0 < i < 4 else "priority"
            net.node(f"{name}{i}", bent(x, y), kind, 8.0)
    for i in range(4):
        inner = [columns[i] + (columns[i + 1] - columns[i]) * k / 6 for k in range(1, 6)]
        for name, y in (("s", 0.0), ("n", 210.0)):
            net.road(f"{name}{i}", f"{name}{i + 1}", ARTERIAL, [bent(x, y) for x in inner])
        net.road(f"m{i}", f"m{i + 1}", RESIDENTIAL, [bent(x, 105.0) for x in inner])
    for i in range(5):
        street = AVENUE if i in (0, 4) else TOWN
        net.road(f"s{i}", f"m{i}", street)
        net.road(f"m{i}", f"n{i}", street)
    return net, CROSSINGS


def _oval(share: float, offset: float) -> Point:
    """Point at a share of the way round, counter-clockwise from the middle of the south side."""
    half, r = OVAL_STRAIGHT_M, OVAL_RADIUS_M + offset
    lengths = [half, math.pi * r, 2 * half, math.pi * r, half]
    s = (share % 1.0) * sum(lengths)
    part = 0
    while s > lengths[part] and part < 4:
        s -= lengths[part]
        part += 1
    straight = {0: (s, -r), 2: (half - s, r), 4: (-half + s, -r)}
    if part in straight:
        return straight[part]
    side = 2 - part
    return (side * (half + r * math.sin(s / r)), -side * r * math.cos(s / r))


def motorway() -> tuple[PlainNet, tuple[str, ...]]:
    """A closed motorway, two carriageways of three lanes, each with a rest area behind ramps."""
    net = PlainNet()
    for side, offset, step in (("o", 3.0, 1), ("i", -3.0, -1)):
        half, bend = OVAL_STRAIGHT_M, math.pi * (OVAL_RADIUS_M + offset)
        total = 4 * half + 2 * bend
        # A node wherever a bend begins or ends: SUMO keeps a vehicle's share of the edge when it changes lanes, which
        # is the same place on both lanes only where the whole edge is straight or the whole edge is an arc.
        stations = [0.08, half / total, (half + bend) / total, (3 * half + bend) / total, 1 - half / total, 0.92]
        shares = stations if step > 0 else [1 - share for share in stations]
        for k, share in enumerate(shares):
            net.node(f"{side}{k}", _oval(share, offset), radius_m=2.0)
        for k, share in enumerate(shares):
            until = shares[(k + 1) % len(shares)]
            span = ((until - share) * step) % 1.0
            count = max(4, round(span * total / 8))
            via = [_oval(share + step * span * m / count, offset) for m in range(1, count)]
            net.edge(f"{side}{k}", f"{side}{(k + 1) % len(shares)}", MOTORWAY, via)
        out = 1.0 if side == "o" else -1.0
        # Leaves before the middle of the south side (node 5) as a fourth lane, comes back after it (node 0).
        points = [(0.92 + 0.16 * m / 32) % 1.0 for m in range(1, 32)]
        away = [
            _oval(s if step > 0 else 1 - s, offset + out * (11.3 + 36 * _swell(m / 32)))
            for m, s in enumerate(points, 1)
        ]
        net.node(f"{side}a", away[11])
        net.node(f"{side}b", away[19])
        net.edge(f"{side}5", f"{side}a", RAMP, away[:11])
        net.edge(f"{side}a", f"{side}b", RAMP, away[12:19])
        net.edge(f"{side}b", f"{side}0", RAMP, away[20:])
    return net, (
        "--ramps.guess",
        "--ramps.ramp-length=120",
        "--ramps.min-highway-speed=25",
        "--ramps.max-ramp-speed=20",
    )


def _swell(t: float) -> float:
    """0 at both ends, 1 in the middle third, smooth between."""
    x = min(1.0, max(0.0, 3.0 * min(t, 1.0 - t)))
    return x * x * (3 - 2 * x)


def roundabouts() -> tuple[PlainNet, tuple[str, ...]]:
    """Five single-lane roundabouts, the middle one with four arms."""
    net = PlainNet()
    centres = {"m": (0.0, 0.0), "a": (190.0, 60.0), "b": (-30.0, 200.0), "c": (-200.0, -20.0), "d": (40.0, -190.0)}
    links = [("m", "a"), ("m", "b"), ("m", "c"), ("m", "d"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]
    arms: dict[str, list[tuple[float, str]]] = {name: [] for name in centres}
    for one, other in links:
        for here, there in ((one, other), (other, one)):
            dx, dy = (centres[there][axis] - centres[here][axis] for axis in (0, 1))
            arms[here].append((math.atan2(dy, dx), there))
    for name, (cx, cy) in centres.items():
        radius = 21.0
        ordered = _spread(sorted(arms[name]), math.radians(78))
        for angle, there in ordered:
            net.node(f"{name}{there}", (cx + radius * math.cos(angle), cy + radius * math.sin(angle)), radius_m=12.0)
        for k, (angle, there) in enumerate(ordered):
            after_angle, after = ordered[(k + 1) % len(ordered)]
            span = (after_angle - angle) % (2 * math.pi)
            count = max(3, round(span / 0.2))
            bends = [angle + span * m / count for m in range(1, count)]
            via = [(cx + radius * math.cos(bend), cy + radius * math.sin(bend)) for bend in bends]
            net.edge(f"{name}{there}", f"{name}{after}", RING, via, spread="center")
    for one, other in links:
        # A Bezier curve: leaves each ring along its radius.
        (ax, ay), (bx, by) = net.nodes[f"{one}{other}"][0][:2], net.nodes[f"{other}{one}"][0][:2]
        reach = math.hypot(bx - ax, by - ay) * 0.4 / 21.0
        cx, cy = ax + (ax - centres[one][0]) * reach, ay + (ay - centres[one][1]) * reach
        dx, dy = bx + (bx - centres[other][0]) * reach, by + (by - centres[other][1]) * reach
        via = []
        for m in range(1, 24):
            t = m / 24
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            via.append((a * ax + b * cx + c * dx + d * bx, a * ay + b * cy + c * dy + d * by))
        net.road(f"{one}{other}", f"{other}{one}", APPROACH, via)
    return net, ("--roundabouts.guess", "--crossings.guess", "--crossings.guess.speed-threshold=15")


def _spread(arms: list[tuple[float, str]], least_rad: float) -> list[tuple[float, str]]:
    """Push the angles of a ring's arms apart until neighbours are `least_rad` from each other."""
    angles = [angle for angle, _ in arms]
    for _ in range(200):
        for k in range(len(angles)):
            after = (k + 1) % len(angles)
            lack = least_rad - (angles[after] - angles[k]) % (2 * math.pi)
            if lack > 0:
                angles[k], angles[after] = angles[k] - lack / 2, angles[after] + lack / 2
    return sorted((angle, name) for angle, (_, name) in zip(angles, arms, strict=True))


def rural() -> tuple[PlainNet, tuple[str, ...]]:
    """Winding country roads over hills: a ring, a road across it and one lane off it."""
    net = PlainNet()

    def hill(x: float, y: float) -> float:
        return 9 * math.sin(x / 190) * math.cos(y / 160) + 4 * math.sin((x + y) / 120)

    def lifted(x: float, y: float) -> Point:
        return (x, y, hill(x, y))

    def bends(angle: float) -> tuple[float, float]:
        r = 1 + 0.10 * math.sin(3 * angle + 0.4) + 0.012 * math.sin(7 * angle)
        return (430 * r * math.cos(angle), 290 * r * math.sin(angle))

    corners = {"e": 0.0, "n": 1.7, "w": 3.3, "s": 4.6}
    for name, angle in corners.items():
        net.node(name, lifted(*bends(angle)), radius_m=12.0)
    names = list(corners)
    for k, name in enumerate(names):
        after = names[(k + 1) % 4]
        start, end = corners[name], corners[after] + (2 * math.pi if k == 3 else 0)
        via = [lifted(*bends(start + (end - start) * m / 48)) for m in range(1, 48)]
        net.road(name, after, RURAL, via)
    net.node("x", lifted(20.0, 10.0), radius_m=10.0)
    hx, hy = net.nodes["x"][0][:2]
    for name, (dx, dy) in {"e": (110, -50), "n": (-50, 90), "w": (-110, 50), "s": (50, -90)}.items():
        # A Bezier curve that leaves the ring at a right angle and meets the crossing with a sway.
        (ax, ay), (bx, by) = bends(corners[name]), bends(corners[name] + 0.01)
        reach = 130 / math.hypot(bx - ax, by - ay)
        cx, cy = ax - (by - ay) * reach, ay + (bx - ax) * reach
        via = []
        for m in range(1, 28):
            t = m / 28
            p, q, u, v = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            via.append(lifted(p * ax + q * cx + u * (hx + dx) + v * hx, p * ay + q * cy + u * (hy + dy) + v * hy))
        net.road(name, "x", LANE, via)
    return net, ()


def irregular(seed: int, iterations: int, *, lights: int, distance_m: float, hilly: bool = False) -> PlainNet:
    """A town as netgenerate's random network lays it out, its dead ends cut off."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "r"
        run_tool(
            "netgenerate",
            ["--rand", f"--rand.iterations={iterations}", f"--seed={seed}", "--rand.connectivity=0.97",
             f"--rand.min-distance={distance_m}", f"--rand.max-distance={2 * distance_m}", "--rand.min-angle=55",
             "--rand.neighbor-dist3=10", "--rand.neighbor-dist4=12", "--no-warnings",
             f"--plain-output-prefix={plain}", f"--output-file={folder}/r.net.xml"],
        )  # fmt: skip
        nodes = {
            str(node.get("id")): (float(node.get("x", 0)), float(node.get("y", 0)))
            for node in ElementTree.parse(f"{plain}.nod.xml").iter("node")
        }
        pairs = {
            tuple(sorted((str(edge.get("from")), str(edge.get("to")))))
            for edge in ElementTree.parse(f"{plain}.edg.xml").iter("edge")
        }
    links = _core_of({(a, b) for a, b in pairs})
    return _streets(nodes, sorted(links), np.random.default_rng(seed), lights, hilly)


def _core_of(links: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Links left after dead ends are cut off again and again."""
    while True:
        degree: dict[str, int] = {}
        for link in links:
            for name in link:
                degree[name] = degree.get(name, 0) + 1
        kept = {link for link in links if min(degree[name] for name in link) > 1}
        if kept == links:
            return kept
        links = kept


def _streets(
    nodes: dict[str, tuple[float, float]],
    links: list[tuple[str, str]],
    rng: np.random.Generator,
    lights: int,
    hilly: bool,
) -> PlainNet:
    net = PlainNet()
    degree = {name: sum(name in link for link in links) for name in nodes}
    busiest = sorted((name for name in nodes if degree[name] > 2), key=lambda name: (-degree[name], name))[:lights]
    for name in sorted(name for name in nodes if degree[name]):
        x, y = nodes[name]
        z = (6 * math.sin(x / 140 + 1) * math.cos(y / 110),) if hilly else ()
        net.node(name, (x, y, *z), "traffic_light" if name in busiest else "priority")
    for a, b in links:
        is_main = degree[a] > 3 or degree[b] > 3
        street = (AVENUE if rng.random() < 0.35 else TOWN) if is_main else (TOWN if rng.random() < 0.4 else RESIDENTIAL)
        (x0, y0), (x1, y1) = nodes[a], nodes[b]
        bow = float(rng.uniform(-0.05, 0.05))
        via = []
        for m in range(1, 8):
            t = m / 8
            side = bow * math.sin(math.pi * t)
            x, y = x0 + (x1 - x0) * t - (y1 - y0) * side, y0 + (y1 - y0) * t + (x1 - x0) * side
            z = (6 * math.sin(x / 140 + 1) * math.cos(y / 110),) if hilly else ()
            via.append((x, y, *z))
        net.road(a, b, street, via)
    return net


def town_irregular() -> tuple[PlainNet, tuple[str, ...]]:
    return irregular(7, 34, lights=4, distance_m=75.0), CROSSINGS


def old_town() -> tuple[PlainNet, tuple[str, ...]]:
    """Held out: another irregular town, on slopes."""
    return irregular(23, 30, lights=3, distance_m=85.0, hilly=True), CROSSINGS


def ring_town() -> tuple[PlainNet, tuple[str, ...]]:
    """Held out: three rings and six spokes; avenues outside, lights on the middle ring."""
    net = PlainNet()
    radii, arms = (70.0, 170.0, 275.0), 6
    for k in range(arms):
        angle = 2 * math.pi * k / arms + 0.2
        for ring, radius in enumerate(radii):
            kind = "traffic_light" if ring == 1 and k % 2 == 0 else "priority"
            net.node(f"r{ring}{k}", (radius * math.cos(angle), radius * math.sin(angle)), kind, 8.0)
    for k in range(arms):
        angle, step = 2 * math.pi * k / arms + 0.2, 2 * math.pi / arms
        for ring, radius in enumerate(radii):
            bends = [angle + step * m / 10 for m in range(1, 10)]
            via = [(radius * math.cos(bend), radius * math.sin(bend)) for bend in bends]
            street = AVENUE if ring == 1 else RESIDENTIAL if ring == 0 else TOWN
            net.road(f"r{ring}{k}", f"r{ring}{(k + 1) % arms}", street, via)
        for ring in (0, 1):
            net.road(f"r{ring}{k}", f"r{ring + 1}{k}", TOWN)
    return net, CROSSINGS


BUILDERS: dict[str, Callable[[], tuple[PlainNet, tuple[str, ...]]]] = {
    "town_grid": town_grid,
    "town_irregular": town_irregular,
    "arterial": arterial,
    "motorway": motorway,
    "roundabouts": roundabouts,
    "rural": rural,
    "old_town": old_town,
    "ring_town": ring_town,
}


def build(name: str, target: Path) -> None:
    """Make one shipped network. Raises ConfigError without eclipse-sumo."""
    net, options = BUILDERS[name]()
    net.round_corners()
    with tempfile.TemporaryDirectory() as folder:
        convert(net, Path(folder), target, options)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name in BUILDERS:
        build(name, folder / f"{name}.net.xml")


if __name__ == "__main__":
    main()
