"""What rays hit, as points with normals and looks: the step between casting and shading."""

import numpy as np
from numpy.typing import NDArray

from sim.sensors.compiled import compiled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@compiled
def fill_surface_points(
    rows: I64,
    origin_m: F32,
    direction: F32,
    distance_m: F32,
    surface: I32,
    actor: I32,
    look: F32,
    rotation: F32,
    position_m: F32,
    out: F32,
    material: U8,
) -> None:
    """Fill `out` (19, M) float32 and `material` (M,) for the rays `rows` (M,) that hit something.

    origin_m: (3, 1) or (3, N); direction: (3, N); distance_m, surface, actor: (N,). look: (S, 8) of `SurfaceTable`.
    rotation: (K, 9) world_R_actor and position_m: (K, 3) of the actors. Rows of `out`: direction 0-2, position 3-5,
    normal towards the camera 6-8, position and normal where textures cling 9-11 and 12-14, distance 15,
    albedo 16-18.
    """
    steps = 1 if origin_m.shape[1] > 1 else 0
    for m in range(len(rows)):
        i = rows[m]
        far = distance_m[i]
        dx, dy, dz = direction[0, i], direction[1, i], direction[2, i]
        px = origin_m[0, i * steps] + far * dx
        py = origin_m[1, i * steps] + far * dy
        pz = origin_m[2, i * steps] + far * dz
        s = surface[i]
        lx, ly, lz = look[s, 0], look[s, 1], look[s, 2]
        nx, ny, nz, ux, uy, uz = lx, ly, lz, px, py, pz
        k = actor[i]
        if k >= 0:
            r = rotation[k]
            ax, ay, az = px - position_m[k, 0], py - position_m[k, 1], pz - position_m[k, 2]
            ux = r[0] * ax + r[3] * ay + r[6] * az
            uy = r[1] * ax + r[4] * ay + r[7] * az
            uz = r[2] * ax + r[5] * ay + r[8] * az
            nx = r[0] * lx + r[1] * ly + r[2] * lz
            ny = r[3] * lx + r[4] * ly + r[5] * lz
            nz = r[6] * lx + r[7] * ly + r[8] * lz
        if dx * nx + dy * ny + dz * nz > 0:
            nx, ny, nz = -nx, -ny, -nz
        out[0, m], out[1, m], out[2, m] = dx, dy, dz
        out[3, m], out[4, m], out[5, m] = px, py, pz
        out[6, m], out[7, m], out[8, m] = nx, ny, nz
        out[9, m], out[10, m], out[11, m] = ux, uy, uz
        out[12, m], out[13, m], out[14, m] = lx, ly, lz
        out[15, m] = far
        out[16, m], out[17, m], out[18, m] = look[s, 3], look[s, 4], look[s, 5]
        material[m] = np.uint8(look[s, 6])
