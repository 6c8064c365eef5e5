"""Drawing with distance fields: shapes, textures, shading and a camera, in numpy float32.

Notation: h = w = SIZE pixels, canvas [3,h,w] in 0..1; x, y are an object's own coordinates in
pixels, x to the right, y down, (0, 0) its centre; a distance is negative inside a shape. Only
+ - * / and square roots touch the pixels: IEEE 754 fixes them, so that every machine draws alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIZE = 256
Real = float | np.floating | int
Window = tuple[slice, slice]
Turn = tuple[Real, Real]  # cosine and sine
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) - np.float32((SIZE - 1) / 2)


class Frame(NamedTuple):
  """Where an object lies in the picture: its coordinates at every pixel."""

  x: np.ndarray  # [h,w]
  y: np.ndarray  # [h,w]
  turn: Turn
  zoom: Real
  shift: tuple[Real, Real]
  slack: Real = 1  # pixels by which a bent object may be off

  def window(self, cx: Real, cy: Real, reach_x: Real, reach_y: Real) -> Window:
    """Returns the pixels in a box around a point of the object; it turns with the object."""
    c, s = self.turn
    px = (c * cx - s * cy) * self.zoom + self.shift[0] + SIZE / 2
    py = (s * cx + c * cy) * self.zoom + self.shift[1] + SIZE / 2
    rx = (abs(c) * reach_x + abs(s) * reach_y) * self.zoom + self.slack
    ry = (abs(s) * reach_x + abs(c) * reach_y) * self.zoom + self.slack
    return span(py, ry), span(px, rx)

  def place(self, cx: Real, cy: Real, turn: Turn, reach: Real):
    """Returns a window and a part's own coordinates there: (window, x [h',w'], y [h',w'])."""
    win = self.window(cx, cy, reach, reach)
    x, y = self.x[win] - np.float32(cx), self.y[win] - np.float32(cy)
    c, s = np.float32(turn[0]), np.float32(turn[1])
    return win, c * x + s * y, c * y - s * x


def span(middle: Real, reach: Real) -> slice:
  """Returns the pixels within `reach` of a place, those that the picture has."""
  first = max(0, int(middle - reach))
  return slice(first, max(first, int(middle + reach) + 1))


def turned(t: Real) -> Turn:
  """Returns cosine and sine of the angle whose half has tangent `t` (0.01 is about 1 degree)."""
  return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def any_turn(rng: np.random.Generator) -> Turn:
  """Returns a turn by any angle."""
  c, s = turned(rng.uniform(-1, 1))
  return (c, s) if rng.random() < 0.5 else (-c, -s)


def frame(turn: Turn, zoom: Real, shift: tuple[Real, Real]) -> Frame:
  """Returns the coordinates of an object that is turned, zoomed and shifted in the picture."""
  c, s = np.float32(turn[0] / zoom), np.float32(turn[1] / zoom)
  x, y = _X - np.float32(shift[0]), _Y - np.float32(shift[1])
  return Frame(c * x + s * y, c * y - s * x, turn, zoom, shift)


def bent(f: Frame, px: Real, py: Real, radius: Real, push: tuple[Real, Real]) -> Frame:
  """Returns a frame whose coordinates are pushed aside around pixel (px, py)."""
  x, y = _X - np.float32(px - SIZE / 2), _Y - np.float32(py - SIZE / 2)
  w = bump((x * x + y * y) / np.float32(radius * radius))
  slack = f.slack + max(abs(push[0]), abs(push[1])) * f.zoom
  return f._replace(x=f.x + w * np.float32(push[0]), y=f.y + w * np.float32(push[1]), slack=slack)


def bump(r2: np.ndarray) -> np.ndarray:
  """Returns a smooth hill over squared radius: 1 at 0, 0 from 1 on."""
  w = np.maximum(1 - r2, 0)
  return w * w


def ring(r: np.ndarray, middle: Real, reach: Real) -> np.ndarray:
  """Returns a smooth ridge over the radius: 1 at `middle`, 0 from `reach` pixels beside it on."""
  t = (r - np.float32(middle)) * np.float32(1 / reach)
  return bump(t * t)


def smooth(t: np.ndarray) -> np.ndarray:
  """Returns the smooth step from 0 (t <= 0) to 1 (t >= 1)."""
  t = np.clip(t, 0, 1)
  return t * t * (3 - 2 * t)


def inside(d: np.ndarray, soft: Real = 1.3) -> np.ndarray:
  """Returns how much of each pixel a shape covers, from its distance; `soft` pixels of edge."""
  return np.clip(np.float32(0.5) - d * np.float32(1 / soft), 0, 1)


def wave(t: np.ndarray) -> np.ndarray:
  """Returns nearly the sine of t turns."""
  t = t - np.floor(t + np.float32(0.5))  # [-1/2, 1/2)
  return t * (8 - 16 * np.abs(t))


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns the length of the vectors (x, y)."""
  return np.sqrt(x * x + y * y)


def box(x: np.ndarray, y: np.ndarray, half_w: Real, half_h: Real, corner: Real = 0):
  """Returns the distance to a box with rounded corners."""
  qx = np.abs(x) - np.float32(half_w - corner)
  qy = np.abs(y) - np.float32(half_h - corner)
  out = length(np.maximum(qx, 0), np.maximum(qy, 0))
  return out + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)


def hexagon(x: np.ndarray, y: np.ndarray, r: Real) -> np.ndarray:
  """Returns the distance to a hexagon of inner radius `r`."""
  ax, ay = np.abs(x), np.abs(y)
  return np.maximum(ay, ax * np.float32(0.8660254) + ay * np.float32(0.5)) - np.float32(r)


def segment(x: np.ndarray, y: np.ndarray, a: Sequence[Real], b: Sequence[Real]) -> np.ndarray:
  """Returns the distance to the line from point a to point b."""
  vx, vy = b[0] - a[0], b[1] - a[1]
  qx, qy = x - np.float32(a[0]), y - np.float32(a[1])
  t = (qx * np.float32(vx) + qy * np.float32(vy)) * np.float32(1 / (vx * vx + vy * vy + 1e-9))
  t = np.clip(t, 0, 1)
  return length(qx - t * np.float32(vx), qy - t * np.float32(vy))


def blend(canvas: np.ndarray, win: Window, cover: np.ndarray, colour) -> None:
  """Paints a colour (three numbers, or [3,h',w']) into a window as far as `cover` [h',w'] says."""
  for plane, c in zip(canvas[:, *win], np.asarray(colour, np.float32), strict=True):
    plane += cover * (c - plane)


def shadow(canvas: np.ndarray, win: Window, d: np.ndarray, depth: Real, soft: Real = 6) -> None:
  """Darkens what lies within about `soft` pixels of a shape, most right and below it."""
  near = np.empty_like(d)
  near[:2], near[:, :2] = d[:2], d[:, :2]
  near[2:, 2:] = d[:-2, :-2]
  canvas[:, *win] *= 1 - np.float32(depth) * smooth(np.float32(0.5) - near * np.float32(0.5 / soft))


def relief(height: np.ndarray, strength: Real) -> np.ndarray:
  """Returns the light [h',w'] on a surface of this height, lit from the upper left; 1 if flat."""
  light = np.ones_like(height)
  slope = height[1:-1, 1:-1] * 2 - height[:-2, 1:-1] - height[1:-1, :-2]
  light[1:-1, 1:-1] += np.clip(slope * np.float32(strength), -0.7, 0.7)
  return light


def bevel(d: np.ndarray, width: Real, strength: Real) -> np.ndarray:
  """Returns the light on a shape whose rim, `width` pixels of it, slopes down to its edge."""
  return relief(smooth(d * np.float32(-1 / width)), strength)


def colours(colour: Sequence[Real] | np.ndarray, light: np.ndarray) -> np.ndarray:
  """Returns a colour under a light: [3,h',w']."""
  return np.asarray(colour, np.float32)[:, None, None] * light


def noise(rng: np.random.Generator, rows: int, cols: int, shape=(SIZE, SIZE)) -> np.ndarray:
  """Returns a smooth random field in -1..1: rows x cols random values, interpolated."""
  grid = rng.random((rows, cols), np.float32) * 2 - 1
  return _stretch(_stretch(grid, shape[0]).T, shape[1]).T


def _stretch(a: np.ndarray, n: int) -> np.ndarray:
  """Interpolates [m,k] to [n,k]."""
  at = np.linspace(0, len(a) - 1, n, dtype=np.float32)
  low = np.minimum(at.astype(np.int32), max(len(a) - 2, 0))
  w = smooth(at - low.astype(np.float32))[:, None]
  return a[low] + w * (a[np.minimum(low + 1, len(a) - 1)] - a[low])


def lookup(table: np.ndarray, at: np.ndarray) -> np.ndarray:
  """Returns a random line's value at each place, interpolated, repeated beyond its end."""
  low = np.floor(at)
  i = low.astype(np.int32) % len(table)
  return table[i] + (at - low) * (table[(i + 1) % len(table)] - table[i])


GLYPHS = {  # 5 x 7 dots, a number a row, a bit a dot
  " ": (0, 0, 0, 0, 0, 0, 0),
  "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14),
  "2": (14, 17, 1, 2, 4, 8, 31), "3": (31, 2, 4, 2, 1, 17, 14),
  "5": (31, 16, 30, 1, 1, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8),
  "A": (14, 17, 17, 31, 17, 17, 17), "C": (14, 17, 16, 16, 16, 17, 14),
  "I": (14, 4, 4, 4, 4, 4, 14), "M": (17, 27, 21, 21, 17, 17, 17),
  "R": (30, 17, 17, 30, 20, 18, 17), "X": (17, 17, 10, 4, 10, 17, 17),
}  # fmt: skip


def text(x: np.ndarray, y: np.ndarray, words: str, dot: Real) -> np.ndarray:
  """Returns how much of each pixel is covered by a line of text, its dots `dot` pixels wide."""
  bits = np.zeros((9, 6 * len(words) + 1), np.float32)
  for i, letter in enumerate(words):
    for j, row in enumerate(GLYPHS[letter]):
      bits[j + 1, 6 * i + 1 : 6 * i + 6] = [(row >> k) & 1 for k in (4, 3, 2, 1, 0)]
  h, w = bits.shape
  u = np.clip(x * np.float32(1 / dot) + np.float32((w - 1) / 2), 0, w - 1.001)
  v = np.clip(y * np.float32(1 / dot) + np.float32((h - 1) / 2), 0, h - 1.001)
  i, j = v.astype(np.int32), u.astype(np.int32)
  fi, fj = v - i.astype(np.float32), u - j.astype(np.float32)  # with int32 it would be float64
  top = bits[i, j] + fj * (bits[i, j + 1] - bits[i, j])
  low = bits[i + 1, j] + fj * (bits[i + 1, j + 1] - bits[i + 1, j])
  return smooth((top + fi * (low - top)) * 2 - np.float32(0.5))


class Camera(NamedTuple):
  """One exposure: the light over the picture and the sensor's grain."""

  light: np.ndarray  # [h,w]
  tint: np.ndarray  # [3]
  blur: Real
  grain: np.ndarray  # [h,w] in 1/255, and the half that rounds


def camera(rng: np.random.Generator) -> Camera:
  """Returns an exposure of its own brightness, slant and colour of light, sharpness and grain."""
  level, slant = rng.uniform(0.84, 1.14), rng.uniform(-0.12, 0.12, 2)
  tint = np.asarray(rng.uniform(0.975, 1.025, 3), np.float32)
  ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
  flat = np.float32(level) + np.float32(slant[0]) * ramp[:, None] + np.float32(slant[1]) * ramp
  flat = flat - np.float32(0.05) * (ramp * ramp)[:, None] - np.float32(0.05) * ramp * ramp
  dots = rng.integers(0, 256, (2, SIZE, SIZE), np.uint8).astype(np.float32)
  grain = (dots[0] + dots[1] - 255) * np.float32(rng.uniform(0.009, 0.02))
  return Camera(flat, tint, rng.uniform(0.1, 0.24), grain + np.float32(0.5))


def expose(canvas: np.ndarray, cam: Camera) -> np.ndarray:
  """Returns the picture [h,w,3] uint8 that a camera takes of a canvas."""
  image = np.empty((SIZE, SIZE, 3), np.uint8)
  for i, plane in enumerate(canvas):  # a plane at a time stays in the processor's cache
    lit = plane * cam.light
    lit *= cam.tint[i] * 255
    for a in (lit, lit.T):
      a[1:-1] += np.float32(cam.blur) * (a[:-2] + a[2:] - 2 * a[1:-1])
    lit += cam.grain
    image[:, :, i] = np.clip(lit, 0, 255, out=lit)
  return image
