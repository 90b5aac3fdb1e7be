"""Lamps at night: headlamps of the ego and of others, street lamps, lit windows, signals."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sim.scene import MATERIAL_INDEX, EgoPose, Mesh
from sim.sensors.compiled import compiled
from sim.sensors.tracks import ActorTracks
from sim.weather import Weather

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]

MAX_BEAMS: Final = 8
MAX_STREET_LAMPS: Final = 10
LAMP_REACH_M: Final = 60.0
STREET_REACH_M: Final = 30.0
SAME_HEAD_M: Final = 1.0
"""Triangles nearer to each other than this belong to one street lamp."""
EGO_LAMP_M: Final = (3.6, 0.0, 0.68)
"""Where the ego's headlamps are taken to sit, both as one, in the ego frame."""

_BEAM_BGR: Final = np.array([0.80, 0.94, 1.0], dtype=np.float32)
_STREET_BGR: Final = np.array([0.42, 0.75, 1.0], dtype=np.float32)
_REACH2 = np.float32(LAMP_REACH_M**2)
_STREET_REACH2 = np.float32(STREET_REACH_M**2)
_ONE, _STEEP = np.float32(1), np.float32(30)
_WARM: Final = MATERIAL_INDEX["window"]
_HEADLIGHT, _TAILLIGHT = MATERIAL_INDEX["headlight"], MATERIAL_INDEX["taillight"]
SIGNAL_MATERIALS: Final = tuple(MATERIAL_INDEX[name] for name in ("lamp_red", "lamp_yellow", "lamp_green"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lamps:
    """beam_m, beam_direction: (3, B) headlamps. street_m: (3, S) street lamps, shining down. All float32, world."""

    beam_m: F32
    beam_direction: F32
    street_m: F32

    @classmethod
    def none(cls) -> "Lamps":
        empty = np.zeros((3, 0), dtype=np.float32)
        return cls(beam_m=empty, beam_direction=empty, street_m=empty)

    @classmethod
    def near(cls, ego: EgoPose, tracks: ActorTracks, front_m: F64, street_m: F64) -> "Lamps":
        """Lamps that matter around the ego. front_m: (K,) headlamps ahead of each actor's origin, nan for none.

        street_m: (S, 3) all street lamps of the world.
        """
        at = ego.world_SE3_ego
        beams = [at[:3, :3] @ np.array(EGO_LAMP_M) + at[:3, 3]]
        aims = [at[:3, 0]]
        position = tracks.position_m[tracks.middle]
        away = np.linalg.norm(position - at[:3, 3], axis=1)
        shining = np.flatnonzero(np.isfinite(front_m) & (away < LAMP_REACH_M))
        for k in shining[np.argsort(away[shining], kind="stable")][: MAX_BEAMS - 1]:
            rotation = tracks.rotation[tracks.middle, k]
            beams.append(position[k] + rotation @ np.array([front_m[k] + 0.1, 0.0, 0.7]))
            aims.append(rotation[:, 0])
        off = np.linalg.norm(street_m[:, :2] - at[:2, 3], axis=1)
        street = street_m[np.argsort(off, kind="stable")[:MAX_STREET_LAMPS]]
        return cls(
            beam_m=np.array(beams, dtype=np.float32).T,
            beam_direction=np.array(aims, dtype=np.float32).T,
            street_m=street.T.astype(np.float32),
        )

    def add_to(self, light: F32, position_m: F32, normal: F32, gain: F32) -> None:
        """Add what lamps cast on surface points (3, N) to `light` (3, N). gain: (N,) more where surfaces throw back."""
        _add_beams(self.beam_m, self.beam_direction, position_m, normal, gain, light)
        _add_street(self.street_m, position_m, normal, light)


@compiled
def _add_beams(beam_m: F32, aim: F32, position_m: F32, normal: F32, gain: F32, light: F32) -> None:
    """Dipped beams: wide to the sides, cut off just below the horizon."""
    for b in range(beam_m.shape[1]):
        for n in range(light.shape[1]):
            x, y, z = position_m[0, n] - beam_m[0, b], position_m[1, n] - beam_m[1, b], position_m[2, n] - beam_m[2, b]
            far2 = x * x + y * y + z * z
            if far2 >= _REACH2 or aim[0, b] * x + aim[1, b] * y + aim[2, b] * z <= 0:
                continue
            away = np.sqrt(far2) + np.float32(0.3)
            side = (y * aim[0, b] - x * aim[1, b]) / (away * np.float32(0.30))
            rise = z / away
            steep = rise / np.float32(0.16)
            cut = _ONE / (_ONE + np.exp(min(max((rise + np.float32(0.008)) * np.float32(220), -_STEEP), _STEEP)))
            pattern = np.exp(-(side * side) - steep * steep) * (np.float32(0.04) + np.float32(0.96) * cut)
            cosine = abs(x * normal[0, n] + y * normal[1, n] + z * normal[2, n]) / away
            # Real beams aim far ahead: less is lost with distance than from a bare bulb.
            strength = np.float32(60) * pattern * np.sqrt(cosine) / (far2 + np.float32(12)) * gain[n]
            light[0, n] += _BEAM_BGR[0] * strength
            light[1, n] += _BEAM_BGR[1] * strength
            light[2, n] += _BEAM_BGR[2] * strength


@compiled
def _add_street(street_m: F32, position_m: F32, normal: F32, light: F32) -> None:
    for s in range(street_m.shape[1]):
        for n in range(light.shape[1]):
            x, y, z = (
                street_m[0, s] - position_m[0, n],
                street_m[1, s] - position_m[1, n],
                street_m[2, s] - position_m[2, n],
            )
            far2 = x * x + y * y + z * z
            facing = x * normal[0, n] + y * normal[1, n] + z * normal[2, n]
            if far2 >= _STREET_REACH2 or z <= 0 or facing <= 0:
                continue
            away2 = (np.sqrt(far2) + np.float32(0.5)) ** 2
            strength = np.float32(20) * facing * z / (away2 * away2)
            light[0, n] += _STREET_BGR[0] * strength
            light[1, n] += _STREET_BGR[1] * strength
            light[2, n] += _STREET_BGR[2] * strength


def glow_of(material: U8, place: I64, lit_signal: U8, weather: Weather) -> F32:
    """Strength (N,) of light that surfaces send out themselves.

    place: (N,) a number for each window. lit_signal: (N,) lamp material that shines on the actor there, 255 for none.
    """
    glow = np.zeros(len(material), dtype=np.float32)
    is_signal = material == lit_signal
    dark = weather.is_dark
    glow[is_signal] = 4.0 if dark else 2.2
    glow[material == _HEADLIGHT] = 9.0 if dark else 0.35
    glow[material == _TAILLIGHT] = 2.2 if dark else 0.10
    if dark:
        window = np.flatnonzero(material == _WARM)
        lot = (place[window] * 2654435761 >> 7) % 97
        glow[window] = np.where(lot < 34, np.float32(1.0) + lot.astype(np.float32) / 30, np.float32(0))
    return glow


def street_lamps(scenery: Mesh) -> F64:
    """Places (S, 3) of street lamps: lamp heads in the scenery, triangles of one head taken together."""
    rows = np.flatnonzero(np.isin(scenery.material, SIGNAL_MATERIALS))
    if len(rows) == 0:
        return np.zeros((0, 3))
    center = scenery.vertices_m[scenery.triangles[rows]].astype(np.float64).mean(axis=1)
    near = cKDTree(center).query_pairs(SAME_HEAD_M, output_type="ndarray")
    graph = coo_array((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(rows), len(rows)))
    heads, head = connected_components(graph, directed=False)
    total = np.zeros((heads, 3))
    np.add.at(total, head, center)
    return total / np.bincount(head)[:, None]
