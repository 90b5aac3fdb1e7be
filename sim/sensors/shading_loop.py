"""The shading of one surface point after another, compiled: texture, sun and sky, gloss, own light, air."""

import numpy as np
from numpy.typing import NDArray

from sim.sensors.compiled import Number, compiled
from sim.sensors.textures import NEUTRAL, SIDE, SLOW_M, TEXTURES

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

BLURRED_M = np.float32(0.3)
"""Where a pixel covers more than this every texture is its own mean."""
BRICK = list(TEXTURES).index("brick")
PANELS = list(TEXTURES).index("panels")
_UNIT = np.float32(1 / NEUTRAL)
_SLOW_RATE = np.float32(SIDE / SLOW_M)
_SIDE = np.float32(SIDE)
_ROUND = np.float32(1 / SIDE)
_ONE = np.float32(1)
_DETAIL = np.float32(1.25 * SIDE)


@compiled
def _fresnel(cosine: Number, specular: Number, is_window: Number) -> Number:
    """Share of light that a surface mirrors, by Schlick's approximation of Fresnel's law (1994)."""
    grazing = _ONE - min(max(cosine, np.float32(0)), _ONE)
    square = grazing * grazing
    share = specular * (np.float32(0.06) + np.float32(0.94) * square * square * grazing)
    return min(share + np.float32(0.12) * is_window, np.float32(0.9))


@compiled
def _highlight(toward_sun: Number) -> Number:
    """The sun's own image in a glossy surface: the cosine to the power of 256."""
    spot = max(np.float32(0), toward_sun)
    for _ in range(8):
        spot *= spot
    return np.float32(18) * spot


@compiled
def _sky(zenith: Number, horizon: Number, ground: Number, up: Number) -> Number:
    """What is mirrored along a direction that rises by `up`; see `Daylight.gradient`."""
    low = _ONE - min(max(up, np.float32(0)), _ONE)
    low *= low
    light = horizon + (zenith - horizon) * (_ONE - low * low)
    return light + (ground - light) * min(max(np.float32(-8) * up, np.float32(0)), _ONE)


@compiled
def lay_textures(point: F32, material: U8, looks: F32, u_m: F32, v_m: F32, texture: U8) -> None:
    """Where textures lie on surface points (M,): the ground plane on level ground, along and up on walls."""
    for m in range(len(material)):
        kind = material[m]
        x, y = point[12, m], point[13, m]
        if abs(point[14, m]) > np.float32(0.6):
            u_m[m], v_m[m] = point[9, m], point[10, m]
        else:
            flat = max(np.sqrt(x * x + y * y), np.float32(1e-6))
            u_m[m], v_m[m] = (point[10, m] * x - point[9, m] * y) / flat, -point[11, m]
        texture[m] = np.uint8(looks[kind, 0])
        if looks[kind, 4] > 0:  # a wall's colour tells what it is built of
            blue, green, red = point[16, m], point[17, m], point[18, m]
            if red < np.float32(1.12) * blue and green < np.float32(0.45):
                texture[m] = PANELS
            elif red > np.float32(1.6) * blue:
                texture[m] = BRICK


@compiled
def tint_points(
    point: F32,
    texture: U8,
    u_m: F32,
    v_m: F32,
    footprint_m: F32,
    atlas: U8,
    kinds: F32,
    levels: F32,
    out: F32,
) -> None:
    """What textures make of the colours of surface points: multipliers `out` (3, M) of blue, green, red.

    atlas, kinds, levels: of `TextureAtlas`. Paint has no texture, and far away every texture is its own mean.
    """
    for m in range(len(texture)):
        kind = texture[m]
        out[0, m], out[1, m], out[2, m] = _ONE, _ONE, _ONE
        if kind == 0 or footprint_m[m] >= BLURRED_M:
            continue
        slant = abs(point[0, m] * point[6, m] + point[1, m] * point[7, m] + point[2, m] * point[8, m])
        rate = kinds[kind, 0]
        seen = footprint_m[m] / np.sqrt(max(slant, np.float32(0.02))) * rate * _DETAIL
        level = 0
        while seen >= 2 and level < levels.shape[0] - 1:
            seen *= np.float32(0.5)
            level += 1
        x = (u_m[m] * rate - np.floor(u_m[m] * rate)) * levels[level, 0] + levels[level, 1]
        y = (v_m[m] * rate - np.floor(v_m[m] * rate)) * levels[level, 0] + kinds[kind, 1]
        column, row = int(x), int(y)
        fx, fy = x - np.float32(column), y - np.float32(row)
        for color in range(3):
            top = (_ONE - fx) * atlas[row, column, color] + fx * atlas[row, column + 1, color]
            bottom = (_ONE - fx) * atlas[row + 1, column, color] + fx * atlas[row + 1, column + 1, color]
            out[color, m] = ((_ONE - fy) * top + fy * bottom) * _UNIT


@compiled
def vary_ground(point: F32, u_m: F32, v_m: F32, slow: U8, out: F32) -> None:
    """Multiply `out` (3, M) on level ground by a second, slow pattern, which hides that the first repeats."""
    for m in range(len(u_m)):
        if point[14, m] <= np.float32(0.7):
            continue
        x, y = u_m[m] * _SLOW_RATE, v_m[m] * _SLOW_RATE
        x -= np.floor(x * _ROUND) * _SIDE
        y -= np.floor(y * _ROUND) * _SIDE
        column, row = int(x) & (SIDE - 1), int(y) & (SIDE - 1)
        right, lower = (column + 1) & (SIDE - 1), (row + 1) & (SIDE - 1)
        fx, fy = x - np.floor(x), y - np.floor(y)
        top = slow[row, column] * (_ONE - fx) + slow[row, right] * fx
        bottom = slow[lower, column] * (_ONE - fx) + slow[lower, right] * fx
        patch = (top * (_ONE - fy) + bottom * fy) * _UNIT
        out[0, m] *= patch
        out[1, m] *= patch
        out[2, m] *= patch


@compiled
def shade_points(
    point: F32,
    material: U8,
    sunlit: F32,
    open_sky: F32,
    lamp_light: F32,
    glow: F32,
    tint: F32,
    looks: F32,
    light: F32,
    out: F32,
) -> None:
    """Radiance `out` (3, M) of the surface points `point` (19, M) of `fill_surface_points`.

    sunlit, open_sky, glow: (M,). lamp_light: (3, M), or (3, 0) by day. tint: (3, M) of `tint_points`. looks:
    (materials, 6) texture, specular, gets wet, is leaf, is facade, is window. light: (8, 3) rows: direction to the sun,
    sun, zenith, horizon, ground, ambient sky, room light, (extinction per metre, is wet, 0).
    """
    extinction, is_wet = light[7, 0], light[7, 1] > 0
    has_lamps = lamp_light.shape[1] > 0
    for m in range(len(material)):
        kind = material[m]
        dx, dy, dz = point[0, m], point[1, m], point[2, m]
        nx, ny, nz = point[6, m], point[7, m], point[8, m]
        blue, green, red = point[16, m], point[17, m], point[18, m]
        cosine = -(dx * nx + dy * ny + dz * nz)
        wet = np.float32(0.5) if is_wet and looks[kind, 2] > 0 else np.float32(1)

        facing = max(np.float32(0), light[0, 0] * nx + light[0, 1] * ny + light[0, 2] * nz)
        if looks[kind, 3] > 0:  # leaves let light through: they are never black on the far side
            facing = np.float32(0.35) + np.float32(0.65) * facing
        facing *= sunlit[m]
        sky = (np.float32(0.5) + np.float32(0.5) * nz) * open_sky[m]
        below = (np.float32(0.5) - np.float32(0.5) * nz) * open_sky[m]
        arriving_b = light[5, 0] * sky + light[4, 0] * below + light[1, 0] * facing
        arriving_g = light[5, 1] * sky + light[4, 1] * below + light[1, 1] * facing
        arriving_r = light[5, 2] * sky + light[4, 2] * below + light[1, 2] * facing
        if has_lamps:
            arriving_b += lamp_light[0, m]
            arriving_g += lamp_light[1, m]
            arriving_r += lamp_light[2, m]
        back_b = arriving_b * blue * tint[0, m] * wet
        back_g = arriving_g * green * tint[1, m] * wet
        back_r = arriving_r * red * tint[2, m] * wet

        specular = np.float32(0.38) if is_wet and looks[kind, 2] > 0 and nz > np.float32(0.7) else looks[kind, 1]
        if specular > np.float32(0.05):
            twice = np.float32(2) * cosine
            mx, my, mz = dx + twice * nx, dy + twice * ny, dz + twice * nz
            share = _fresnel(cosine, specular, looks[kind, 5])
            spot = _highlight(light[0, 0] * mx + light[0, 1] * my + light[0, 2] * mz) if facing > 0 else np.float32(0)
            seen = np.float32(0.5) + np.float32(0.5) * open_sky[m]
            mirror = _sky(light[2, 0], light[3, 0], light[4, 0], mz) * seen + light[1, 0] * spot
            back_b += (mirror - back_b) * share
            mirror = _sky(light[2, 1], light[3, 1], light[4, 1], mz) * seen + light[1, 1] * spot
            back_g += (mirror - back_g) * share
            mirror = _sky(light[2, 2], light[3, 2], light[4, 2], mz) * seen + light[1, 2] * spot
            back_r += (mirror - back_r) * share
        if glow[m] > 0:
            is_room = looks[kind, 5] > 0
            back_b += glow[m] * (light[6, 0] if is_room else blue)
            back_g += glow[m] * (light[6, 1] if is_room else green)
            back_r += glow[m] * (light[6, 2] if is_room else red)
        clear = np.exp(-extinction * point[15, m])
        out[0, m] = light[3, 0] + (back_b - light[3, 0]) * clear
        out[1, m] = light[3, 1] + (back_g - light[3, 1]) * clear
        out[2, m] = light[3, 2] + (back_r - light[3, 2]) * clear
