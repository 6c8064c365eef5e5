"""The two categories that are put together from parts: a printed circuit and a sorting tray.

Each may be put together wrongly: a part missing, one too many, or two exchanged.
"""

import itertools
from typing import Any

import numpy as np
from imiad_jax.datasets.synthetic import parts  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.categories import (  # pyright: ignore[reportMissingImports]
  ALL,
  Category,
  Plan,
  Rng,
  Scene,
  upright,
  whole,
)
from imiad_jax.datasets.synthetic.draw import (  # pyright: ignore[reportMissingImports]
  Frame,
  Real,
  any_turn,
  bevel,
  blend,
  box,
  colours,
  inside,
  length,
  noise,
  segment,
  turned,
  wave,
)
from imiad_jax.datasets.synthetic.parts import Part  # pyright: ignore[reportMissingImports]

UPRIGHT, ACROSS = 0, 1
BOARD = (  # kind, x, y, quarter turn
  ("mcu", -36, -30, UPRIGHT), ("chip", 66, -62, UPRIGHT), ("chip", -60, 76, UPRIGHT),
  ("can", 96, 4, UPRIGHT), ("can", 62, 90, UPRIGHT),
  ("res", -98, -90, UPRIGHT), ("res", -60, -96, UPRIGHT), ("res", 34, -10, ACROSS),
  ("res", 96, 62, ACROSS), ("cap", -100, -40, ACROSS), ("cap", -98, 4, ACROSS),
  ("cap", 30, 44, UPRIGHT), ("cap", 6, 88, ACROSS), ("res", 64, 34, UPRIGHT),
)  # fmt: skip
FREE = ((-14, -100), (62, -22), (-50, 30), (100, -100), (20, 112), (-108, 42), (100, 104), (0, 20))
TRACES = (  # corners of copper lines
  ((-36, -62), (-36, -82), (-60, -96)), ((-98, -90), (-80, -72), (-62, -72), (-50, -60)),
  ((-65, -37), (-84, -37), (-100, -50)), ((-65, -23), (-88, -10), (-98, -4)),
  ((-7, -44), (14, -44), (34, -64), (42, -80)), ((-7, -30), (20, -30), (34, -18)),
  ((-7, -16), (12, -2), (34, -2)), ((-29, -1), (-29, 30), (-52, 57)),
  ((-15, -1), (-15, 20), (12, 44), (22, 44)), ((66, -42), (66, -26), (92, 0)),
  ((96, 14), (96, 54)), ((38, 44), (52, 34)), ((72, 34), (88, 34), (96, 42)),
  ((-36, 95), (-20, 112), (0, 104), (6, 96)), ((6, 80), (20, 62), (30, 50)),
  ((62, 78), (62, 60), (80, 48), (80, 20)), ((-84, 57), (-84, 30), (-116, 10), (-116, -116)),
  ((96, 70), (96, 90), (76, 90)), ((-118, 118), (118, 118), (118, -118)),
)  # fmt: skip
VIAS = (
  (-52, 57), (42, -84), (92, 14), (-116, -60), (-84, 30), (118, 30), (20, 62), (66, -26),
  (118, -60), (-40, 118), (40, 118), (-20, -78), (10, -66), (-116, -116), (80, 20),
)  # fmt: skip


def plan_circuit(rng: Rng) -> Plan:
  """A board whose parts sit a little off and vary in tone; the copper is always the same."""

  def put(kind: str, x: Real, y: Real, across: int) -> Part:
    c, s = turned(rng.uniform(-0.02, 0.02))
    dx, dy = rng.uniform(-1.2, 1.2, 2)
    return Part(kind, x + dx, y + dy, (-s, c) if across else (c, s), rng.random())

  small = ("res", "cap", "can", "cap")
  extra = (put(small[i % 4], x, y, i % 2) for i, (x, y) in enumerate(FREE))
  looks = {
    "fibre": noise(rng, 100, 100) * np.float32(0.10) + noise(rng, 6, 6) * np.float32(0.14),
    "green": np.asarray((0.045, 0.27, 0.15)) + rng.uniform(-0.015, 0.015, 3),
    "gold": rng.uniform(0.85, 1.1),
  }
  return Plan(looks, tuple(put(*site) for site in BOARD), tuple(extra))


def paint_circuit(f: Frame, plan: Plan) -> Scene:
  """Draws the lacquered board, its copper, the pads of all sites, then the parts."""
  k = plan.looks
  weave = np.float32(0.03) * (wave(f.x * np.float32(0.2)) + wave(f.y * np.float32(0.2)))
  canvas = colours(k["green"], 1 + k["fibre"] + weave)
  copper = np.asarray(k["green"]) * 1.25 + (0.03, 0.10, 0.05)
  for line in TRACES:
    for a, b in itertools.pairwise(line):
      middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
      win = f.window(*middle, abs(a[0] - b[0]) / 2 + 3, abs(a[1] - b[1]) / 2 + 3)
      d = segment(f.x[win], f.y[win], a, b) - np.float32(1.6)
      blend(canvas, win, inside(d), copper)
  for x, y in VIAS:
    win, lx, ly = f.place(x, y, (1, 0), 7)
    r = length(lx, ly)
    gold = colours((0.78, 0.62, 0.28), np.float32(k["gold"]) * bevel(r - 5, 2, 0.6))
    blend(canvas, win, inside(r - 5), gold)
    blend(canvas, win, inside(r - 2.2), (0.03, 0.04, 0.03))
  for kind, x, y, across in BOARD:
    parts.footprint(canvas, f, Part(kind, x, y, (0, 1) if across else (1, 0), 0))
  for part in plan.parts:
    parts.draw(canvas, f, part)
  return Scene(canvas, whole())


ROWS = ("nut", "washer", "lid", "screw")
PITCH = 56


def plan_tray(rng: Rng) -> Plan:
  """Three parts of a kind in each row, each turned by any angle; the last column stays empty."""

  def put(kind: str, row: int, column: int) -> Part:
    dx, dy = rng.uniform(-4, 4, 2)
    x, y = (column - 1.5) * PITCH + dx, (row - 1.5) * PITCH + dy
    return Part(kind, x, y, any_turn(rng), rng.random())

  full = tuple(put(kind, row, column) for row, kind in enumerate(ROWS) for column in range(3))
  empty = tuple(put(kind, row, 3) for row, kind in enumerate(ROWS))
  return Plan(mould(rng), full, empty)


def mould(rng: Rng) -> dict[str, Any]:
  """Returns how a piece of moulded plastic looks."""
  return {
    "skin": noise(rng, 128, 128) * np.float32(0.03) + noise(rng, 5, 5) * np.float32(0.06),
    "blue": rng.uniform(-0.02, 0.02),
    "wear": rng.uniform(0.8, 1.1),
  }


def moulded(looks: dict[str, Any], d: np.ndarray) -> np.ndarray:
  """Returns the canvas of a piece of plastic with recesses, from the distance [h,w] to them."""
  light = (1 + looks["skin"]) * np.float32(looks["wear"])
  canvas = colours((0.40, 0.42, 0.44 + looks["blue"]), light)
  canvas *= bevel(-d - 1, 5, 1.2)
  blend(canvas, ALL, inside(d, 4), colours((0.27, 0.29, 0.31 + looks["blue"]), light))
  return canvas


def paint_tray(f: Frame, plan: Plan) -> Scene:
  """Draws a moulded tray of sixteen pockets and what lies in them."""
  x = f.x - PITCH * (np.clip(np.floor(f.x * np.float32(1 / PITCH)), -2, 1) + np.float32(0.5))
  y = f.y - PITCH * (np.clip(np.floor(f.y * np.float32(1 / PITCH)), -2, 1) + np.float32(0.5))
  canvas = moulded(plan.looks, box(x, y, 24, 24, 6))
  for part in plan.parts:
    parts.draw(canvas, f, part)
  return Scene(canvas, whole())


def missing(rng: Rng, plan: Plan) -> Plan:
  """Leaves one part out."""
  gone = int(rng.integers(len(plan.parts)))
  return plan._replace(parts=plan.parts[:gone] + plan.parts[gone + 1 :])


def extra(rng: Rng, plan: Plan) -> Plan:
  """Adds a part where none belongs."""
  return plan._replace(parts=(*plan.parts, plan.free[int(rng.integers(len(plan.free)))]))


def swapped(rng: Rng, plan: Plan) -> Plan:
  """Exchanges two parts of different kinds; the big ones of a board stay."""
  kinds = [p.kind for p in plan.parts]
  small = [i for i, kind in enumerate(kinds) if kind not in ("mcu", "chip")]
  a = small[int(rng.integers(len(small)))]
  others = [i for i in small if kinds[i] != kinds[a]]
  b = others[int(rng.integers(len(others)))]
  new = list(plan.parts)
  new[a] = plan.parts[a]._replace(kind=kinds[b])
  new[b] = plan.parts[b]._replace(kind=kinds[a])
  return plan._replace(parts=tuple(new))


MISTAKES = (("extra", extra), ("missing", missing), ("swapped", swapped))
ASSEMBLIES: dict[str, Category] = {
  "circuit": Category(upright(0.025, 0.03, 5), plan_circuit, paint_circuit, MISTAKES),
  "tray": Category(upright(0.025, 0.03, 5), plan_tray, paint_tray, MISTAKES),
}
