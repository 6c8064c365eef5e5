"""Two objects of three variants each: what is at one end says what has to be at the other.

Every part of a `mismatch` is as in some good piece, and where it is there; only the two ends do not
belong together. They lie further apart than what a network that sees small patches takes in.
"""

import numpy as np
from imiad_jax.datasets.synthetic import parts  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.assemblies import mould, moulded  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.categories import (  # pyright: ignore[reportMissingImports]
  Category,
  Plan,
  Rng,
  Scene,
  upright,
  whole,
)
from imiad_jax.datasets.synthetic.draw import (  # pyright: ignore[reportMissingImports]
  Frame,
  any_turn,
  bevel,
  blend,
  box,
  bump,
  colours,
  inside,
  length,
  shadow,
)
from imiad_jax.datasets.synthetic.parts import Part  # pyright: ignore[reportMissingImports]

PAIRS = (("nut", "washer"), ("screw", "lid"), ("bolt", "nut"))  # what goes left, what goes right
LAMPS = ((0.80, 0.16, 0.12), (0.85, 0.62, 0.10), (0.16, 0.62, 0.24))
PITCH = 68  # from lamp to lamp, and from notch to notch


def plan_pair(rng: Rng) -> Plan:
  """Three parts of one kind on the left, and of the kind that goes with it on the right."""

  def put(kind: str, side: int, row: int) -> Part:
    dx, dy = rng.uniform(-6, 6, 2)
    return Part(kind, side * 88 + dx, row * 58 + dy, any_turn(rng), rng.random())

  pair = PAIRS[int(rng.integers(3))]
  placed = (
    put(kind, side, row) for kind, side in zip(pair, (-1, 1), strict=True) for row in (-1, 0, 1)
  )
  return Plan(mould(rng), tuple(placed))


def paint_pair(f: Frame, plan: Plan) -> Scene:
  """Draws a box of two long pockets and what lies in them."""
  canvas = moulded(plan.looks, box(np.abs(f.x) - 88, f.y, 28, 92, 8))
  for part in plan.parts:
    parts.draw(canvas, f, part)
  return Scene(canvas, whole())


def plan_panel(rng: Rng) -> Plan:
  """Three lamps, of which the one above the lever's notch is lit."""
  notch = int(rng.integers(3))
  looks = {
    "lit": notch,
    "lever": notch,
    "off": rng.uniform(-4, 4, 2),
    "glow": rng.uniform(0.9, 1.15),
  }
  return Plan(mould(rng) | looks)


def paint_panel(f: Frame, plan: Plan) -> Scene:
  """Draws the panel, its lamps, the slot of the lever and the lever."""
  k = plan.looks
  canvas = moulded(k, box(f.x, f.y - 80, PITCH + 26, 9, 8))
  for i, colour in enumerate(LAMPS):
    win, x, y = f.place((i - 1) * PITCH, -72, (1, 0), 40)
    r = length(x, y)
    blend(canvas, win, inside(r - 27), colours((0.62, 0.62, 0.63), bevel(r - 27, 4, 1.0)))
    centre = bump(r * r * np.float32(1 / 700))
    glass = np.float32(0.42) + np.float32(0.12) * centre
    if i == k["lit"]:
      glass = np.float32(k["glow"]) * (1 + np.float32(0.6) * centre)
    blend(canvas, win, inside(r - 22), colours(colour, glass))
  win, x, y = f.place((k["lever"] - 1) * PITCH + k["off"][0], 80 + k["off"][1], (1, 0), 34)
  r = length(x, y)
  shadow(canvas, win, r - 22, 0.5, 6)
  blend(canvas, win, inside(r - 22), colours((0.16, 0.17, 0.20), bevel(r - 22, 8, 1.4)))
  blend(canvas, win, inside(box(x, y, 2.5, 18, 2)), (0.85, 0.85, 0.82))
  return Scene(canvas, whole())


def _other(rng: Rng, mine: int) -> int:
  """Returns another one of three."""
  return (mine + 1 + int(rng.integers(2))) % 3


def lever_elsewhere(rng: Rng, plan: Plan) -> Plan:
  """Puts the lever in a notch whose lamp is not lit."""
  return plan._replace(looks=plan.looks | {"lever": _other(rng, plan.looks["lit"])})


def other_parts(rng: Rng, plan: Plan) -> Plan:
  """Puts the parts of another variant into one of the pockets."""
  pair = (plan.parts[0].kind, plan.parts[-1].kind)
  other, side = PAIRS[_other(rng, PAIRS.index(pair))], int(rng.integers(2))
  changed = (
    part._replace(kind=other[side]) if (part.x > 0) == bool(side) else part for part in plan.parts
  )
  return plan._replace(parts=tuple(changed))


OBJECTS: dict[str, Category] = {
  "pair": Category(upright(0.025, 0.03, 5), plan_pair, paint_pair, (("mismatch", other_parts),)),
  "panel": Category(
    upright(0.025, 0.03, 5), plan_panel, paint_panel, (("mismatch", lever_elsewhere),)
  ),
}
