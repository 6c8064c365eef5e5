"""Is any method significantly better: ranks over categories (Demsar, JMLR 7, 2006, pp. 1-30).

Notation: N categories, of all data sets, each a mean over seeds; k methods. The Friedman test asks
whether their ranks differ at all; Nemenyi's critical difference is how far two mean ranks must be
apart to differ significantly, all pairs considered.
"""

import itertools
from typing import NamedTuple

import matplotlib.figure
import numpy as np
import scipy.stats
from jaxtyping import Float

from imiad_jax.records import Record
from imiad_jax.reporting import drawing, lines
from imiad_jax.reporting.drawing import Figure

METRIC = "image_auroc"
ALPHA = 0.05
LEAST = (5, 3)
"""N and k from which a verdict is given; the chi-squared distribution needs no less."""
DRAWN = (2, 3)
"""N and k from which ranks are drawn, without the critical difference where there is no verdict."""


class Test(NamedTuple):
  """Whether ranks differ."""

  p: float  # of the Friedman test, which corrects for ties
  critical: float  # Nemenyi's critical difference


class Ranking(NamedTuple):
  """Methods by mean rank, the best first."""

  methods: list[str]
  ranks: list[float]  # mean over categories; 1 is best, ties share
  categories: list[str]
  test: Test | None  # None where there are too few data for one


def rank(values: Float[np.ndarray, "N k"], methods: list[str], categories: list[str]) -> Ranking:
  """Ranks methods by their values, of which the highest is best."""
  n, k = values.shape
  order = scipy.stats.rankdata(-values, axis=1)
  means = order.sum(axis=0) / max(n, 1)
  best = np.argsort(means, kind="stable")
  ranked = [methods[i] for i in best], [float(means[i]) for i in best]
  if n < LEAST[0] or k < LEAST[1]:
    return Ranking(*ranked, categories, None)
  constant = bool((order == order[0, 0]).all())
  p = 1.0 if constant else float(scipy.stats.friedmanchisquare(*values.T).pvalue)
  return Ranking(*ranked, categories, Test(p, critical(k, n)))


def critical(k: int, n: int, alpha: float = ALPHA) -> float:
  """Returns Nemenyi's critical difference of k methods on n categories (Demsar, section 3.2.2)."""
  q = scipy.stats.studentized_range.ppf(1 - alpha, k, np.inf) / np.sqrt(2)
  return float(q * np.sqrt(k * (k + 1) / (6 * n)))


def complete(
  found: list[lines.Entry], metric: str
) -> tuple[Float[np.ndarray, "N k"], list[str], list[str]]:
  """Returns a metric of categories by variants without holes, mean over seeds, and their names.

  The categories are those of one of the variants, or what all have in common, and the variants
  those that have them all: whichever leaves most values, but not too few methods or categories.
  """
  has: dict[str, set[str]] = {}
  for e in found:
    if metric in e.values:
      has.setdefault(e.variant, set()).add(e.category)

  def kept(of: set[str]) -> list[str]:
    return sorted(v for v, mine in has.items() if of <= mine)

  def worth(of: set[str]) -> tuple[bool, int]:
    n, k = len(of), len(kept(of))
    return n >= LEAST[0] and k >= LEAST[1], n * k

  shared = [*has.values(), set.intersection(*has.values())] if has else [set[str]()]
  best = max(shared, key=worth)
  rows, columns = sorted(best), kept(best)
  values = np.zeros((len(rows), len(columns)))
  for (i, c), (j, v) in itertools.product(enumerate(rows), enumerate(columns)):
    mine = [e.values[metric] for e in found if (e.category, e.variant) == (c, v)]
    values[i, j] = np.mean(mine)
  return values, rows, columns


def verdict(found: Ranking) -> str:
  """Returns in a sentence whether any method is significantly better, or why that is not known."""
  n, k = len(found.categories), len(found.methods)
  if not found.test:
    return (
      f"Whether any method is significantly better cannot be said: it takes {LEAST[1]} methods on "
      f"{LEAST[0]} categories that all of them met, here are {k} on {n}."
    )
  p, critical = found.test
  said = f"On {n} categories the ranks of {k} methods in image AUROC"
  if p >= ALPHA:
    return f"{said} do not differ significantly (Friedman test, p = {p:.2g})."
  best, others = found.methods[0], found.methods[1:]
  gap = found.ranks[0] + critical
  alike = [m for m, r in zip(others, found.ranks[1:], strict=True) if r < gap]
  said += f" differ (Friedman test, p = {p:.2g}): {best} has the best mean rank, "
  said += f"{found.ranks[0]:.1f}, and is significantly better than "
  least = f"Nemenyi's critical difference is {critical:.1f}"
  if not alike:
    return f"{said}all others ({least})."
  return f"{said}{k - 1 - len(alike)} of {k - 1}, but not than {', '.join(alike)} ({least})."


def of(records: list[Record]) -> Ranking:
  """Returns the ranking of all unsupervised lines, of each method its best variant."""
  every = [e for e in lines.entries(records) if e.setting == "unsupervised"]
  best = [e for es in _by_method(every).values() for e in lines.best(es, METRIC)]
  values, categories, methods = complete(best, METRIC)
  return rank(values, methods, categories)


def _by_method(found: list[lines.Entry]) -> dict[str, list[lines.Entry]]:
  out: dict[str, list[lines.Entry]] = {}
  for e in found:
    out.setdefault(e.method, []).append(e)
  return out


def cliques(ranks: list[float], critical: float) -> list[tuple[int, int]]:
  """Returns first and last of each largest group, in order, that does not differ significantly."""
  out: list[tuple[int, int]] = []
  for first, low in enumerate(ranks):
    last = max(i for i, r in enumerate(ranks) if r - low < critical)
    if last > first and (not out or last > out[-1][1]):
      out.append((first, last))
  return out


def drawable(found: Ranking) -> bool:
  """Returns whether there are data enough to draw ranks."""
  return len(found.categories) >= DRAWN[0] and len(found.methods) >= DRAWN[1]


def diagram(found: Ranking) -> Figure | None:
  """Returns the critical-difference diagram; without that difference where data are too few.

  None where they are too few for ranks, too.
  """
  if not drawable(found):
    return None
  k = len(found.methods)
  groups = cliques(found.ranks, found.test.critical) if found.test else []
  half = -(-k // 2)
  top = 1.4 + 0.45 * len(groups)  # of the names, below the groups; the axis is at 0

  def paint(figure: matplotlib.figure.Figure) -> None:
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set_xlim(1 - 0.55 * k, k + 0.55 * k)
    ax.set_ylim(top + half, -2)
    ink = {"color": drawing.INK, "linewidth": 1}
    ax.plot([1, k], [0, 0], **ink)
    for r in range(1, k + 1):
      ax.plot([r, r], [-0.2, 0], **ink)
    for r in range(1, k + 1, -(-k // 14)):  # as many as have room
      ax.text(r, -0.35, str(r), ha="center", va="bottom", size=8)
    if found.test:
      long = found.test.critical
      ax.plot([1, 1 + long], [-1.4, -1.4], color=drawing.COLOURS[1], linewidth=2)
      ax.text(1, -1.55, f"critical difference {long:.2f}", va="bottom", size=8)
    for g, (a, b) in enumerate(groups):
      y = 0.6 + 0.45 * g
      ends = [found.ranks[a] - 0.04 * k / 10, found.ranks[b] + 0.04 * k / 10]
      ax.plot(ends, [y, y], color=drawing.COLOURS[0], linewidth=3, solid_capstyle="round")
    for i, (method, r) in enumerate(zip(found.methods, found.ranks, strict=True)):
      left = i < half
      y = top + (i if left else k - 1 - i)
      edge = 1 - 0.05 * k if left else k + 0.05 * k
      ax.plot([r, r, edge], [0, y, y], color=drawing.INK, linewidth=0.7, alpha=0.7)
      text = f"{method}  {r:.2f}" if left else f"{r:.2f}  {method}"
      at = edge + (-0.01 if left else 0.01) * k
      ax.text(at, y, text, ha="right" if left else "left", va="center", size=8)

  caption = f"Mean ranks in image AUROC over {len(found.categories)} categories, best on the left. "
  if found.test:
    caption += "Methods that a bar joins do not differ significantly (Nemenyi, 5 %). "
  caption += verdict(found)
  if found.test:
    caption += " Categories of one data set are not quite independent, which flatters the test."
  return drawing.draw("Is any method better?", caption, paint, height=0.9 + 0.2 * (top + half))
