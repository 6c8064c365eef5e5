"""What accuracy costs: figure 2 of the paper, image AUROC against time and memory of scoring."""

from typing import NamedTuple

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from jaxtyping import Bool, Float

from imiad_jax.records import Record
from imiad_jax.reporting import drawing, lines
from imiad_jax.reporting.drawing import Figure

_MOST = 900  # area of the largest circle, in square points


class Point(NamedTuple):
  """A variant of a method."""

  name: str
  seconds: float  # to score one image, at batch 1
  accuracy: float  # image AUROC
  bytes: float  # what scoring reads: of the State, and the backbone's parameters in float32


def points(records: list[Record], dataset: str) -> list[Point]:
  """Returns the variants whose cost was measured, unsupervised: means over categories and seeds.

  The cost is that of the runs it was measured of, which need not be all of them.
  """
  found = lines.entries(records)
  mine = [e for e in found if (e.setting, e.dataset) == ("unsupervised", dataset)]
  out: list[Point] = []
  for variant, es in lines.grouped(mine).items():
    accuracy = lines.mean(es, "image_auroc")
    costs = [e.cost for e in es if e.cost]
    if accuracy and costs:
      seconds = float(np.mean([cost["seconds_one"] for cost in costs]))
      read = [cost["scoring_bytes"] + 4 * cost["parameters"] for cost in costs]
      out.append(Point(variant, seconds, accuracy.value, float(np.mean(read))))
  return out


def front(cost: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
  """Says which points no other beats: none costs no more and is worth no less, one of them truly.

  Equal points are on the front together.
  """
  no_worse = (cost <= cost[:, None]) & (value >= value[:, None])
  better = (cost < cost[:, None]) | (value > value[:, None])
  return np.logical_not((no_worse & better).any(axis=1))


def picture(records: list[Record], dataset: str) -> Figure | None:
  """Draws accuracy against time, memory as area, the front as a line; of two variants or more."""
  found = points(records, dataset)
  if len(found) < 2:
    return None
  x = np.array([p.seconds * 1e3 for p in found])
  y = np.array([p.accuracy for p in found])
  read = np.array([p.bytes for p in found])
  area = np.maximum(_MOST * read / read.max(), 12)
  best = front(x, y)
  colours = [drawing.COLOURS[0] if b else drawing.COLOURS[8] for b in best]

  def paint(figure: matplotlib.figure.Figure) -> None:
    ax = figure.subplots()
    ax.set_xscale("log")
    ax.scatter(x, y, s=area, c=colours, alpha=0.55, lw=0)
    along = np.flatnonzero(best)[np.lexsort((y[best], x[best]))]
    ax.plot(x[along], y[along], color=drawing.COLOURS[0], linewidth=1, drawstyle="steps-post")
    ax.set_xlim(x.min() / 1.5, x.max() * 2)  # with room for the last name
    ax.margins(y=0.15)
    ax.set_xlabel("milliseconds for one image")
    ax.set_ylabel("image AUROC")
    ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    ax.grid(color=drawing.INK, alpha=0.12, linewidth=0.6)
    figure.draw_without_rendering()  # so that places in pixels are known
    places = ax.transData.transform(np.c_[x, y]) * 72 / figure.dpi
    places[:, 0] += np.sqrt(area) / 2 + 2
    for k, drop in enumerate(_drops(places, [5.0 * len(p.name) for p in found])):
      offset = (float(np.sqrt(area[k]) / 2 + 2), 5 - drop)  # above the front's line
      where = {"textcoords": "offset points", "va": "center", "size": 8}
      ax.annotate(found[k].name, (x[k], y[k]), offset, **where)

  devices = sorted({r["device"] for r in records if r.get("efficiency") and r.get("device")})
  caption = "Image AUROC against the time to score one image at batch 1"
  caption += f" on {', '.join(devices)}" if devices else ""
  caption += f"; area: bytes that scoring reads, the largest circle {read.max() / 1e6:.0f} MB. "
  caption += "The line is the Pareto front: no other method is both faster and better."
  return drawing.draw(f"Accuracy and cost on {dataset}", caption, paint, height=4.0)


def _drops(places: Float[np.ndarray, "n 2"], widths: list[float]) -> list[float]:
  """Returns how far each label must go down from its place so that none touches another.

  Places, on the left of a label, and widths in points; labels are 10 high.
  """
  taken: list[tuple[float, float, float]] = []
  out = [0.0] * len(places)
  for k in np.argsort(-places[:, 1], kind="stable"):
    x, y = places[k]
    while any(x < a + w and a < x + widths[k] and abs(y - b) < 10 for a, b, w in taken):
      y -= 1
    taken.append((x, y, widths[k]))
    out[k] = float(places[k, 1] - y)
  return out
