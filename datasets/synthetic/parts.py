"""Small parts that lie on plates, boards and trays: bolts, nuts, chips, resistors and so on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from imiad_jax.datasets.synthetic.draw import (  # pyright: ignore[reportMissingImports]
  Frame,
  Real,
  Turn,
  Window,
  bevel,
  blend,
  box,
  bump,
  colours,
  hexagon,
  inside,
  length,
  shadow,
  smooth,
  text,
)


class Part(NamedTuple):
  """A part of some kind at a place of the object."""

  kind: str  # a key of KINDS
  x: Real
  y: Real
  turn: Turn
  tone: Real  # 0..1: how this one differs from others of its kind


def draw(canvas: np.ndarray, f: Frame, part: Part) -> None:
  """Draws a part over the canvas."""
  reach, paint = KINDS[part.kind]
  win, x, y = f.place(part.x, part.y, part.turn, reach)
  if x.size:
    paint(canvas, win, x, y, np.float32(part.tone))


def footprint(canvas: np.ndarray, f: Frame, part: Part) -> None:
  """Draws the tinned pads on which a part is soldered."""
  win, x, y = f.place(part.x, part.y, part.turn, 34)
  for d in _pads(part.kind, x, y):
    blend(canvas, win, inside(d - 1.5), colours((0.70, 0.70, 0.66), bevel(d - 1.5, 2, 0.5)))


def _pads(kind: str, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
  """Returns the distances to a part's solder pads; pins in a row are one folded field."""
  if kind == "chip":
    fold = x - 8 * np.clip(np.floor(x * np.float32(0.125) + np.float32(0.5)), -3, 3)
    return [box(fold, np.abs(y) - 19, 2, 4)]
  if kind == "mcu":
    fx = x - 7 * np.clip(np.floor(x / 7 + np.float32(0.5)), -3, 3)
    fy = y - 7 * np.clip(np.floor(y / 7 + np.float32(0.5)), -3, 3)
    return [box(fx, np.abs(y) - 29, 1.8, 4), box(np.abs(x) - 29, fy, 4, 1.8)]
  half, reach = {"res": (4, 8), "cap": (5, 7), "can": (4, 6)}[kind]
  return [box(np.abs(x) - reach, y, 3.5, half, 1)]


Pixels = np.ndarray


def _bolt(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  r = length(x, y)
  shadow(canvas, win, r - 14, 0.4, 4)
  blend(canvas, win, inside(r - 14.5), colours((0.62, 0.62, 0.63), bevel(r - 14.5, 3, 1.0)))
  dome = bevel(r - 11, 6, 1.6) * (np.float32(0.36) + np.float32(0.12) * tone)
  blend(canvas, win, inside(r - 11), colours((1, 1, 1.04), dome))
  hole = hexagon(x, y, 5.2)
  blend(canvas, win, inside(hole), colours((0.07, 0.07, 0.08), 1 + smooth(y * np.float32(0.2))))


def _nut(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  r, d = length(x, y), hexagon(x, y, 14)
  d = np.maximum(d, 7.5 - r)
  shadow(canvas, win, d, 0.55, 5)
  light = bevel(d, 3.5, 1.3) * (np.float32(0.90) + np.float32(0.2) * tone)
  blend(canvas, win, inside(d), colours((0.80, 0.64, 0.30), light))


def _washer(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  r = length(x, y)
  d = np.maximum(r - 15, 7 - r)
  shadow(canvas, win, d, 0.5, 4)
  sheen = x * np.float32(1 / 12)
  light = np.float32(0.58) + np.float32(0.2) * tone + np.float32(0.16) * bump(sheen * sheen)
  blend(canvas, win, inside(d), colours((1, 1, 1.02), light * bevel(d, 2, 0.7)))


def _lid(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  r = length(x, y)
  inv = 1 / np.maximum(r, 1)
  c, s = x * inv, y * inv
  for _ in range(4):
    c, s = c * c - s * s, 2 * c * s
  d = r - (14 + np.float32(0.7) * c)  # sixteen ribs
  shadow(canvas, win, d, 0.55, 5)
  light = bevel(d, 4, 1.3) * (np.float32(0.9) + np.float32(0.2) * tone)
  light *= bevel(9 - r, 2, 0.7)
  blend(canvas, win, inside(d), colours((0.16, 0.34, 0.66), light))


def _screw(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  r = length(x, y)
  shadow(canvas, win, r - 12, 0.55, 5)
  light = bevel(r - 13, 9, 2.4) * (np.float32(0.26) + np.float32(0.10) * tone)
  blend(canvas, win, inside(r - 13), colours((1, 0.98, 0.95), light))
  cross = np.minimum(box(x, y, 7.5, 1.7, 1), box(x, y, 1.7, 7.5, 1))
  blend(canvas, win, inside(cross), (0.04, 0.04, 0.045))


def _chip(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  _package(canvas, win, x, y, tone, ("chip", 30, 15))
  ink = text(x, y, "M72 A", 1.3) * (np.float32(0.35) + np.float32(0.3) * tone)
  blend(canvas, win, ink, (0.62, 0.62, 0.60))


def _mcu(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  _package(canvas, win, x, y, tone, ("mcu", 25, 25))
  ink = np.maximum(text(x, y + 5, "XR105", 1.3), text(x, y - 7, "2371", 1.3))
  blend(canvas, win, ink * (np.float32(0.35) + np.float32(0.3) * tone), (0.62, 0.62, 0.60))


def _package(canvas, win: Window, x: Pixels, y: Pixels, tone, shape: tuple[str, int, int]) -> None:
  """Draws legs, a black body and the dot at pin 1."""
  kind, w, h = shape
  for d in _pads(kind, x, y):
    blend(canvas, win, inside(d), colours((0.80, 0.80, 0.78), bevel(d, 2, 0.8)))
  d = box(x, y, w, h, 1.5)
  shadow(canvas, win, d, 0.4, 3)
  light = bevel(d, 3, 1.2) * (np.float32(0.085) + np.float32(0.05) * tone)
  blend(canvas, win, inside(d), colours((1, 1, 1.05), light))
  blend(canvas, win, inside(length(x + (w - 5), y - (h - 5)) - 2), (0.02, 0.02, 0.02))


def _res(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  d = box(x, y, 10, 5, 1)
  shadow(canvas, win, d, 0.4, 3)
  blend(canvas, win, inside(d), colours((0.78, 0.78, 0.77), bevel(d, 2.5, 0.9)))
  body = box(x, y, 6.5, 5)
  light = np.float32(0.10) + np.float32(0.05) * tone
  blend(canvas, win, inside(body), colours((1, 1, 1.1), light * bevel(d, 2.5, 0.9)))
  blend(canvas, win, text(x, y, "103", 0.7) * np.float32(0.6), (0.8, 0.8, 0.8))


def _cap(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  d = box(x, y, 9.5, 6.5, 1.5)
  shadow(canvas, win, d, 0.4, 3)
  blend(canvas, win, inside(d), colours((0.78, 0.78, 0.77), bevel(d, 3, 1.0)))
  body = box(x, y, 5.5, 6.5)
  light = bevel(d, 3, 1.0) * (np.float32(0.85) + np.float32(0.3) * tone)
  blend(canvas, win, inside(body), colours((0.56, 0.41, 0.25), light))


def _can(canvas: Pixels, win: Window, x: Pixels, y: Pixels, tone: np.float32) -> None:
  base = box(x, y, 13, 13, 4)
  shadow(canvas, win, base, 0.45, 5)
  blend(canvas, win, inside(base), colours((0.07, 0.07, 0.08), bevel(base, 3, 1.0)))
  d = length(x, y) - 12
  light = bevel(d, 3.5, 1.2) * (np.float32(0.66) + np.float32(0.16) * tone)
  blend(canvas, win, inside(d), colours((1, 1, 1.02), light))
  blend(canvas, win, inside(np.maximum(d + 2, x + 5)), (0.10, 0.10, 0.14))


# kind -> how far it reaches from its centre, and what draws it
KINDS: dict[str, tuple[Real, Callable[[Pixels, Window, Pixels, Pixels, np.float32], None]]] = {
  "bolt": (20, _bolt),
  "nut": (24, _nut),
  "washer": (24, _washer),
  "lid": (24, _lid),
  "screw": (22, _screw),
  "chip": (38, _chip),
  "mcu": (44, _mcu),
  "res": (16, _res),
  "cap": (16, _cap),
  "can": (26, _can),
}
