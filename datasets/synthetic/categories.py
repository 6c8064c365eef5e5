"""The six objects: how each lies, what varies from one good piece to the next, and its picture.

A category is three functions: `pose(rng)` says where the object lies, `plan(rng)` decides all that
is random about it, and `paint(frame, plan)` draws it without any chance. So the same piece can be
drawn again with one thing changed, which is how defects and their masks are made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from imiad_jax.datasets.synthetic import parts  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.draw import (  # pyright: ignore[reportMissingImports]
  SIZE,
  Frame,
  Real,
  any_turn,
  bevel,
  blend,
  box,
  bump,
  colours,
  frame,
  inside,
  length,
  lookup,
  noise,
  relief,
  ring,
  segment,
  shadow,
  smooth,
  text,
  turned,
  wave,
)
from imiad_jax.datasets.synthetic.parts import Part  # pyright: ignore[reportMissingImports]

ALL = (slice(0, SIZE), slice(0, SIZE))
Rng = np.random.Generator


class Plan(NamedTuple):
  """All that is random about one piece."""

  looks: dict[str, Any]  # colours, textures, small displacements
  parts: tuple[Part, ...] = ()  # what may be missing, extra or swapped
  free: tuple[Part, ...] = ()  # where no part belongs, with the part that an extra one would be


class Scene(NamedTuple):
  """A picture before the camera, and how deep each pixel lies inside the object."""

  canvas: np.ndarray  # [3,h,w]
  depth: np.ndarray  # [h,w], in pixels, negative outside


class Category(NamedTuple):
  """A kind of object."""

  pose: Callable[[Rng], Frame]
  plan: Callable[[Rng], Plan]
  paint: Callable[[Frame, Plan], Scene]
  mistakes: tuple[tuple[str, Callable[[Rng, Plan], Plan]], ...] = ()  # kinds of defect of its own


def upright(turn: Real, zoom: Real, shift: Real) -> Callable[[Rng], Frame]:
  """Returns a pose that varies by these amounts around upright, life-size and central."""

  def pose(rng: Rng) -> Frame:
    dx, dy = rng.uniform(-shift, shift, 2)
    return frame(turned(rng.uniform(-turn, turn)), rng.uniform(1 - zoom, 1 + zoom), (dx, dy))

  return pose


def whole() -> np.ndarray:
  """Returns the depth of an object that fills the picture: the distance to the picture's edge."""
  ramp = np.arange(SIZE, dtype=np.float32)
  ramp = np.minimum(ramp, SIZE - 1 - ramp)
  return np.minimum(ramp[:, None], ramp)


def plan_woven(rng: Rng) -> Plan:
  """A twill: warp and weft threads, each of its own tone, running a little unevenly."""
  return Plan(
    {
      "pitch": rng.uniform(6.4, 7.2),
      "phase": rng.uniform(0, 4, 2),
      "drift": np.stack([noise(rng, 5, 5), noise(rng, 5, 5)]) * np.float32(1.8),
      "tones": (rng.random((2, 64), np.float32) - np.float32(0.5)) * np.float32(0.07),
      "fuzz": noise(rng, 96, 96) * np.float32(0.03) + noise(rng, 7, 7) * np.float32(0.03),
      "hue": rng.uniform(-0.02, 0.02, (2, 3)),
    }
  )


def paint_woven(f: Frame, plan: Plan) -> Scene:
  """Draws the twill: where a thread runs on top it bulges, elsewhere the other one covers it."""
  k = plan.looks
  a = (f.x + k["drift"][0]) * np.float32(1 / k["pitch"]) + np.float32(k["phase"][0])
  b = (f.y + k["drift"][1]) * np.float32(1 / k["pitch"]) + np.float32(k["phase"][1])
  i, j = np.floor(a), np.floor(b)
  fa, fb = a - i - np.float32(0.5), b - j - np.float32(0.5)
  along_warp, along_weft = b + i, a + j
  along_warp = along_warp - 4 * np.floor(along_warp * np.float32(0.25))
  along_weft = along_weft - 4 * np.floor(along_weft * np.float32(0.25))
  warp = along_warp < 2
  across = np.where(warp, fa, fb)
  along = np.where(warp, along_warp - 1, along_weft - 3)
  round_ = (1 - 4 * across * across) * (np.float32(0.55) + np.float32(0.45) * (1 - along * along))
  light = np.float32(0.66) + np.float32(0.34) * round_ - np.float32(0.14) * across
  light += np.float32(0.05) * wave(across * np.float32(1.5) + along * np.float32(1.25)) + k["fuzz"]
  number = np.where(warp, i, j).astype(np.int32) % 64
  light *= 1 + np.where(warp, k["tones"][0][number], k["tones"][1][number])
  base = np.asarray([[0.68, 0.65, 0.59], [0.50, 0.54, 0.60]]) + k["hue"]
  canvas = np.where(warp, *(colours(c, light) for c in base))
  return Scene(canvas, whole())


def plan_plate(rng: Rng) -> Plan:
  """A brushed steel plate: four bolts, a bore, an engraved number that differs on each plate."""
  corners = [(-82, -60), (82, -60), (-82, 60), (82, 60)]
  bolts = (
    Part("bolt", x + rng.uniform(-1, 1), y + rng.uniform(-1, 1), any_turn(rng), rng.random())
    for x, y in corners
  )
  return Plan(
    {
      "fine": (rng.random(512, np.float32) - np.float32(0.5)) * np.float32(0.16),
      "coarse": (rng.random(128, np.float32) - np.float32(0.5)) * np.float32(0.10),
      "slow": noise(rng, 40, 5),
      "sheen": rng.uniform(-60, 60),
      "tone": rng.uniform(0.52, 0.62),
      "number": "".join("0123571207"[n] for n in rng.integers(0, 10, 4)),
      "ground": noise(rng, 128, 128) * np.float32(0.02) + noise(rng, 6, 6) * np.float32(0.02),
      "bore": rng.uniform(-0.8, 0.8, 2),
    },
    tuple(bolts),
  )


def paint_plate(f: Frame, plan: Plan) -> Scene:
  """Draws the plate on a dark bench."""
  k = plan.looks
  canvas = colours((0.13, 0.135, 0.15), 1 + 5 * k["ground"])
  d = box(f.x, f.y, 108, 86, 12)
  shadow(canvas, ALL, d, 0.5)
  streaks = lookup(k["fine"], f.y * np.float32(1.3) + k["slow"] * 2 + 300)
  streaks += lookup(k["coarse"], f.y * np.float32(0.4) + k["slow"] + 200)
  streaks *= np.float32(0.75) + np.float32(0.5) * k["slow"]
  sheen = (f.x + np.float32(0.3) * f.y - np.float32(k["sheen"])) * np.float32(1 / 150)
  light = (np.float32(k["tone"]) + streaks + np.float32(0.16) * bump(sheen * sheen)) * bevel(
    d, 5, 1.5
  )
  blend(canvas, ALL, inside(d), colours((1.0, 1.01, 1.03), light))
  bore_x, bore_y = k["bore"]
  win, x, y = f.place(bore_x, bore_y - 22, (1, 0), 32)
  r = length(x, y)
  blend(canvas, win, inside(r - 25), colours((0.66, 0.66, 0.68), bevel(24 - r, 5, 1.5)))
  blend(canvas, win, inside(r - 20), colours((0.08, 0.08, 0.09), 1 + smooth(y * np.float32(0.05))))
  win, x, y = f.place(0, 40, (1, 0), 56)
  cut = text(x, y, "MX " + k["number"], 2.0)
  part = canvas[:, *win]
  part *= 1 - np.float32(0.5) * cut
  part *= relief(1 - cut, 0.5)
  for bolt in plan.parts:
    parts.draw(canvas, f, bolt)
  return Scene(canvas, -d * np.float32(f.zoom))


def plan_bottle(rng: Rng) -> Plan:
  """A glass bottle seen from above, turned by any angle below two lamps."""
  return Plan(
    {
      "centres": rng.uniform(-1.6, 1.6, (3, 2)),
      "glass": np.asarray((0.17, 0.36, 0.20)) * rng.uniform(0.8, 1.15) + rng.uniform(0, 0.03, 3),
      "waves": noise(rng, 12, 12) * np.float32(0.12),
      "ground": noise(rng, 90, 90) * np.float32(0.10) + noise(rng, 4, 4) * np.float32(0.2),
      "lamp": turned(rng.uniform(-0.2, 0.2)),
      "bright": rng.uniform(0.35, 0.55, 2),
      "level": rng.uniform(0.0, 0.10),
    }
  )


def pose_bottle(rng: Rng) -> Frame:
  """A bottle is round: it stands turned by any angle."""
  return frame(any_turn(rng), rng.uniform(0.95, 1.05), tuple(rng.uniform(-7, 7, 2)))


def paint_bottle(f: Frame, plan: Plan) -> Scene:
  """Draws rings from the outside in: body, shoulder, lip, opening; then the lamps' reflections."""
  k = plan.looks
  canvas = colours((0.20, 0.205, 0.22), 1 + k["ground"])
  (bx, by), (sx, sy), (ox, oy) = np.asarray(k["centres"], np.float32)
  r = length(f.x, f.y)
  shadow(canvas, ALL, r - 100, 0.55, 9)
  rb = length(f.x - bx, f.y - by) + k["waves"] * 6
  light = np.float32(0.55) + np.float32(0.70) * ring(rb, 84, 17) + np.float32(0.4) * ring(rb, 70, 6)
  inv = 1 / np.maximum(r, 1)
  c, s = f.x * inv, f.y * inv
  for _ in range(5):  # the angle doubled five times: 32 embossed dots around the rim
    c, s = c * c - s * s, 2 * c * s
  light += np.float32(0.7) * np.maximum(c, 0) * ring(r, 92, 4)
  rs = length(f.x - sx, f.y - sy)
  shoulder = np.float32(0.75) + np.float32(0.95) * ring(rs, 56, 10)
  light += inside(rs - 63, 2) * (shoulder - light) + k["waves"]
  blend(canvas, ALL, inside(r - 100), colours(k["glass"], light))
  win = f.window(0, 0, 54, 54)
  ro = length(f.x[win] - ox, f.y[win] - oy)
  lip = np.float32(0.35) + np.float32(0.75) * ring(ro, 42, 6)
  blend(canvas, win, inside(ro - 48), colours(np.asarray(k["glass"]) + 0.28, lip))
  deep = np.float32(0.08 + k["level"]) + np.float32(0.14) * ring(ro, 22, 10)
  deep += np.float32(0.25) * ring(ro, 0, 10)
  blend(canvas, win, inside(ro - 36, 2), colours((0.80, 0.95, 0.82), deep))
  for side, bright in zip((1, -1), k["bright"], strict=True):
    lamp = _lamp(f, (side * k["lamp"][0], side * k["lamp"][1]), r)
    canvas += np.float32(bright) * lamp
  return Scene(canvas, (100 - r) * np.float32(f.zoom))


def _lamp(f: Frame, turn: tuple[Real, Real], r: np.ndarray) -> np.ndarray:
  """Returns the arcs that a lamp in this direction of the picture throws on the glass."""
  c, s = f.turn
  ux, uy = c * turn[0] + s * turn[1], c * turn[1] - s * turn[0]
  toward = (f.x * np.float32(ux) + f.y * np.float32(uy)) / np.maximum(r, 1)
  return smooth((toward - np.float32(0.80)) * 6) * (ring(r, 78, 5) + ring(r, 44, 3))


def plan_capsule(rng: Rng) -> Plan:
  """A pill of two colours with a printed code, rolled a little around its axis."""
  return Plan(
    {
      "seam": rng.uniform(2, 9),
      "red": np.asarray((0.70, 0.15, 0.13)) + rng.uniform(-0.04, 0.04, 3),
      "cream": np.asarray((0.90, 0.83, 0.66)) + rng.uniform(-0.03, 0.03, 3),
      "roll": rng.uniform(-9, 9),
      "print": rng.uniform(0.55, 0.85),
      "gloss": rng.uniform(0.18, 0.42, 2),
      "skin": noise(rng, 60, 60) * np.float32(0.015) + noise(rng, 8, 8) * np.float32(0.03),
      "paper": noise(rng, 128, 128) * np.float32(0.03) + noise(rng, 5, 5) * np.float32(0.04),
    }
  )


def paint_capsule(f: Frame, plan: Plan) -> Scene:
  """Draws the lower half, the cap that is pushed over it, the print and the gloss."""
  k = plan.looks
  canvas = colours((0.60, 0.66, 0.72), 1 + k["paper"])
  axis = segment(f.x, f.y, (-56, 0), (56, 0))
  cap = f.x < np.float32(k["seam"])
  radius = np.where(cap, np.float32(43), np.float32(41))
  d = axis - radius
  shadow(canvas, ALL, d, 0.55, 10)
  across = np.minimum(axis / radius, 1)
  light = np.float32(0.42) + np.float32(0.60) * np.sqrt(1 - across * across)
  light -= np.float32(0.0025) * f.y - k["skin"]
  seam = (f.x - np.float32(k["seam"])) * np.float32(1 / 5)
  light *= 1 - np.float32(0.30) * bump(seam * seam) * (seam > 0)
  colour = np.where(cap, colours(k["red"], light), colours(k["cream"], light))
  win, x, y = f.place(46, k["roll"], (1, 0), 40)
  ink = text(x, y, "IM 25", 2.2) * np.float32(k["print"])
  blend(colour, win, ink, (0.16, 0.15, 0.20))
  for at, bright in zip((-17, -4), k["gloss"], strict=True):
    streak = segment(f.x, f.y, (-54, at), (52, at)) * np.float32(1 / (8 if at < -9 else 4))
    colour += np.float32(bright if at < -9 else bright * 0.4) * bump(streak * streak)
  blend(canvas, ALL, inside(d), colour)
  return Scene(canvas, -d * np.float32(f.zoom))


CATEGORIES: dict[str, Category] = {
  "bottle": Category(pose_bottle, plan_bottle, paint_bottle),
  "capsule": Category(upright(0.14, 0.05, 7), plan_capsule, paint_capsule),
  "plate": Category(upright(0.035, 0.03, 5), plan_plate, paint_plate),
  "woven": Category(upright(0.05, 0.04, 4), plan_woven, paint_woven),
}
