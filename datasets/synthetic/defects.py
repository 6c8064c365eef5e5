"""Defects: five kinds of damage on any object, an object's own kinds of mistake, and their masks.

Every defective picture is drawn twice, without and with its defect, under the same light and the
same grain. The mask is where the two differ, so it is exact whatever the defect does.
"""

import functools
import itertools
import zlib
from collections.abc import Callable

import numpy as np
from imiad_jax.datasets.synthetic import draw  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.categories import Category, Plan, Rng, Scene  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.draw import (  # pyright: ignore[reportMissingImports]
  SIZE,
  Frame,
  Real,
  Window,
  blend,
  bump,
  inside,
  length,
  noise,
  segment,
  smooth,
)

LEAST = 4  # a pixel belongs to the mask when a channel changes by this much, of 255
AREA = (0.0005, 0.15)  # of the picture; a defect outside is drawn anew
Spot = tuple[Real, Real]  # x, y in the picture


def spot(rng: Rng, depth: np.ndarray, margin: Real) -> Spot:
  """Returns a random pixel that lies `margin` pixels inside the object, or its deepest of 200."""
  at = rng.integers(8, SIZE - 8, (200, 2))
  deep = depth[at[:, 1], at[:, 0]]
  i = int(np.argmax(deep >= margin)) if (deep >= margin).any() else int(np.argmax(deep))
  return int(at[i, 0]), int(at[i, 1])


def around(x: Real, y: Real, reach: Real) -> Window:
  """Returns the window of `reach` pixels around a pixel."""
  return draw.span(y, reach), draw.span(x, reach)


def pixels(win: Window) -> tuple[np.ndarray, np.ndarray]:
  """Returns the picture's coordinates x [1,w'], y [h',1] in a window."""
  y, x = (np.arange(SIZE, dtype=np.float32)[s] for s in win)
  return x[None, :], y[:, None]


def walk(rng: Rng, start: Spot, steps: int, stride: Real, wander: Real) -> list[Spot]:
  """Returns the corners of a line that leaves `start` in any direction and turns a little."""
  c, s = draw.any_turn(rng)
  x, y = start
  line: list[Spot] = [start]
  for _ in range(steps):
    tc, ts = draw.turned(rng.uniform(-wander, wander))
    c, s = c * tc - s * ts, s * tc + c * ts
    x, y = x + c * stride, y + s * stride
    line.append((x, y))
  return line


def lines(canvas, depth, line, width: Real, colour, strength: Real, taper: bool = True) -> None:
  """Draws a line through these corners where it lies on the object, thinner to its ends."""
  reach = max(max(abs(x - line[0][0]), abs(y - line[0][1])) for x, y in line) + 4
  win = around(line[0][0], line[0][1], reach)
  x, y = pixels(win)
  cover = np.zeros((y.size, x.size), np.float32)
  for i, (a, b) in enumerate(itertools.pairwise(line)):
    far = abs(2 * i + 1 - (len(line) - 1)) / (len(line) - 1)
    half = width / 2 * (1 - 0.7 * far * far if taper else 1 - 0.6 * i / len(line))
    np.maximum(cover, inside(segment(x, y, a, b) - np.float32(half)), out=cover)
  blend(canvas, win, cover * _on(depth[win]) * np.float32(strength), colour)


def _on(depth: np.ndarray) -> np.ndarray:
  """Returns where a defect may be seen: on the object, clear of its edge."""
  return smooth((depth - 2) * np.float32(0.5))


def scratch(rng: Rng, canvas: np.ndarray, depth: np.ndarray) -> None:
  """Draws a fine line, brighter or darker than what it crosses, often with a lip beside it."""
  line = walk(rng, spot(rng, depth, 8), 10, rng.uniform(2.5, 8), rng.uniform(0.01, 0.07))
  shade = rng.choice([0.05, 0.85, 0.95])
  strength, width = rng.uniform(0.4, 0.9), rng.uniform(0.8, 2.0)
  lines(canvas, depth, line, width, (shade,) * 3, strength)
  if rng.random() < 0.5:
    beside = [(x + width, y + width * 0.6) for x, y in line]
    lines(canvas, depth, beside, width, (0.9 - shade,) * 3, strength * 0.4)


def crack(rng: Rng, canvas: np.ndarray, depth: np.ndarray) -> None:
  """Draws a jagged dark line with branches."""
  start = spot(rng, depth, 10)
  width, strength = rng.uniform(0.8, 2.2), rng.uniform(0.55, 0.95)
  line = walk(rng, start, int(rng.integers(6, 14)), rng.uniform(3, 6), 0.32)
  lines(canvas, depth, line, width, (0.04, 0.035, 0.03), strength, taper=False)
  for _ in range(int(rng.integers(0, 3))):
    at = line[int(rng.integers(1, len(line) - 1))]
    branch = walk(rng, at, int(rng.integers(3, 6)), rng.uniform(2, 4), 0.3)
    lines(canvas, depth, branch, width * 0.7, (0.04, 0.035, 0.03), strength * 0.9, taper=False)


def _blob(rng: Rng, x: np.ndarray, y: np.ndarray, radius: Real, ragged: Real) -> np.ndarray:
  """Returns the distance, about, to an irregular shape of this radius around (0, 0)."""
  wobble = noise(rng, 6, 6, (y.size, x.size)) * np.float32(radius * ragged)
  c, s = draw.any_turn(rng)
  squash = np.float32(rng.uniform(0.65, 1.0))
  u, v = np.float32(c) * x + np.float32(s) * y, np.float32(c) * y - np.float32(s) * x
  return length(u * squash, v / squash) - np.float32(radius) + wobble


def hole(rng: Rng, canvas: np.ndarray, depth: np.ndarray) -> None:
  """Draws a dark irregular pit whose lower rim catches the light."""
  radius = rng.uniform(3, 10)
  px, py = spot(rng, depth, radius + 5)
  win = around(px, py, 2 * radius + 5)
  x, y = pixels(win)
  d = _blob(rng, x - px, y - py, radius, 0.4)
  on = _on(depth[win])
  ring = bump((d - 1) * (d - 1) * np.float32(1 / 5))
  rim = ring * smooth(((x - px) + (y - py)) * np.float32(0.5 / radius))
  blend(canvas, win, ring * on * np.float32(0.35), (0.05, 0.05, 0.05))
  blend(canvas, win, rim * on * np.float32(0.6), (0.95, 0.94, 0.9))
  shade = rng.uniform(0.02, 0.12)
  blend(canvas, win, inside(d, 1.6) * on * np.float32(rng.uniform(0.75, 0.98)), (shade,) * 3)


def stain(rng: Rng, canvas: np.ndarray, depth: np.ndarray) -> None:
  """Tints an irregular patch as oil, rust or dust would, the pattern below still visible."""
  radius = rng.uniform(7, 28)
  px, py = spot(rng, depth, radius * 0.7)
  win = around(px, py, 2 * radius + 6)
  x, y = pixels(win)
  d = _blob(rng, x - px, y - py, radius, 0.55)
  tint = ((0.45, 0.30, 0.16), (0.12, 0.11, 0.10), (0.85, 0.84, 0.80))[int(rng.integers(3))]
  cover = inside(d, rng.uniform(2, 9)) + np.float32(0.5) * bump(d * d * np.float32(1 / 6))
  cover *= 1 + np.float32(0.35) * noise(rng, 12, 12, d.shape)
  blend(canvas, win, cover * _on(depth[win]) * np.float32(rng.uniform(0.22, 0.5)), tint)


def bend(rng: Rng, f: Frame, depth: np.ndarray) -> Frame:
  """Returns a frame in which the object is pushed aside in one place."""
  radius = rng.uniform(20, 40)
  px, py = spot(rng, depth, radius)
  radius = max(8.0, min(radius, float(depth[int(py), int(px)])))
  (c, s), amount = draw.any_turn(rng), radius * rng.uniform(0.19, 0.30)
  return draw.bent(f, px, py, radius, (c * amount, s * amount))


DAMAGE: dict[str, Callable[[Rng, np.ndarray, np.ndarray], None]] = {
  "crack": crack,
  "hole": hole,
  "scratch": scratch,
  "stain": stain,
}


def kinds(kit: Category) -> list[str]:
  """Returns the kinds of defect that an object has, sorted."""
  return sorted([*DAMAGE, "bend", *dict(kit.mistakes)])


def _with(rng: Rng, kind: str, category: Category, f: Frame, plan: Plan, scene: Scene):
  """Returns the canvas of the same piece with a defect."""
  if kind == "bend":
    return category.paint(bend(rng, f, scene.depth), plan).canvas
  mistakes = dict(category.mistakes)
  if kind in mistakes:
    return category.paint(f, mistakes[kind](rng, plan)).canvas
  canvas = scene.canvas.copy()
  DAMAGE[kind](rng, canvas, scene.depth)
  return canvas


def chances(category: str, split: str, kind: str, number: int, seed: int) -> list[Rng]:
  """Returns the four generators of a picture: of its pose, plan, camera and defect."""
  words = zlib.crc32(f"{category}/{split}/{kind}".encode())
  return [np.random.default_rng(s) for s in np.random.SeedSequence([seed, words, number]).spawn(4)]


@functools.lru_cache(maxsize=2)
def picture(kit: Category, category: str, split: str, kind: str, number: int, seed: int = 0):
  """Draws one example: (image [h,w,3] uint8, mask [h,w] bool, the same piece without defect)."""
  for_pose, for_plan, for_camera, for_defect = chances(category, split, kind, number, seed)
  f, plan, camera = kit.pose(for_pose), kit.plan(for_plan), draw.camera(for_camera)
  scene = kit.paint(f, plan)
  good = draw.expose(scene.canvas, camera)
  if kind == "good":
    return good, np.zeros(good.shape[:2], bool), good
  for _ in range(50):
    image = draw.expose(_with(for_defect, kind, kit, f, plan, scene), camera)
    change = np.abs(image.astype(np.int16) - good).max(axis=-1)
    mask = change >= LEAST
    if AREA[0] <= mask.mean() <= AREA[1]:
      break
  else:
    raise RuntimeError(f"no {kind} of a fair size came out for {category} {number}")
  return image, mask, good
