"""The figures of the report; each is None where the lines do not have the data for it."""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from imiad_jax import tables
from imiad_jax.records import Record
from imiad_jax.reporting import drawing, lines, ranks, tradeoff
from imiad_jax.reporting.drawing import Figure
from imiad_jax.reporting.lines import Entry, Mean


class Kind(NamedTuple):
  """A kind of figure."""

  what: str  # it shows
  draw: Callable[[list[Record], str], Figure | None]  # of the lines of a data set
  command: str  # that makes the lines it needs


_MAIN = "python -m imiad_jax.main --config=configs/"


def matrices(records: list[Record], dataset: str) -> Figure | None:
  """Draws image AUROC on each category after each task, a heat map for each method.

  Of runs that met other categories, or in another order, those of the most lines are shown.
  """
  orders: dict[str, list[tuple[str, Record]]] = defaultdict(list)
  for variant, r in lines.labelled(records):
    run = r["run"]
    if (run["setting"], run["dataset"]) == ("continual", dataset):
      orders[json.dumps([run["categories"], run["setting_kw"]])].append((variant, r))
  found: dict[str, list[np.ndarray]] = defaultdict(list)
  names: list[str] = []
  for variant, r in max(orders.values(), key=len, default=[]):
    matrix = tables.matrix(r, "image_auroc")
    if matrix is not None and len(matrix) > 1:
      found[variant].append(matrix)
      names = list(dict.fromkeys(row["task"] for row in r["rows"]))
  if not found:
    return None
  order = sorted(found, key=tables.natural)
  means = {variant: np.mean(found[variant], axis=0) for variant in order}
  columns = min(2, len(means))
  down = -(-len(means) // columns)

  def paint(figure: matplotlib.figure.Figure) -> None:
    axes = figure.subplots(down, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(means) :]:
      ax.set_visible(False)
    low = min(np.nanmin(m) for m in means.values())
    for k, (ax, (variant, mean)) in enumerate(zip(axes.flat, means.items(), strict=False)):
      _heat(ax, mean, low)
      ax.set_title(variant)
      ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
      ax.set_yticks(np.arange(len(mean)) + 0.5, [f"task {i + 1}" for i in range(len(mean))])
      ax.tick_params(length=0, labelbottom=k >= len(means) - columns)

  tasks = len(next(iter(means.values())))
  caption = "Image AUROC of each category (across) after each task (down), mean over seeds. "
  caption += "A column that darkens downwards is forgotten."
  title = f"Task by task on {dataset}"
  return drawing.draw(title, caption, paint, height=0.9 + down * (0.5 + 0.24 * tasks))


def _heat(ax: Any, mean: np.ndarray, low: float) -> None:
  """Colours a matrix from `low` to 1, dark to bright, and writes its numbers where they fit."""
  colours = matplotlib.colormaps["viridis"]
  ax.pcolormesh(np.ma.masked_invalid(mean), cmap=colours, vmin=low, vmax=1)
  ax.set_ylim(len(mean), 0)
  ax.spines[:].set_visible(False)
  if mean.shape[1] > 8:
    return
  for (i, j), value in np.ndenumerate(mean):
    if np.isfinite(value):
      dark = (value - low) / max(1 - low, 1e-9) < 0.6
      ax.text(
        *(j + 0.5, i + 0.5, f"{value:.2f}"),
        **{"color": "white" if dark else "black", "ha": "center", "va": "center", "size": 7},
      )


def forgetting(records: list[Record], dataset: str) -> Figure | None:
  """Draws image AUROC after the last task and how much of it was lost, as bars for each method."""
  found = [e for e in lines.entries(records) if (e.setting, e.dataset) == ("continual", dataset)]
  means = {
    variant: (kept, lost)
    for variant, es in lines.grouped(found).items()
    if (kept := lines.mean(es, "image_auroc")) and (lost := lines.mean(es, "fm_image_auroc"))
  }
  if not means:
    return None
  order = sorted(means, key=lambda variant: means[variant][0].value)

  def paint(figure: matplotlib.figure.Figure) -> None:
    for ax, k, label in zip(
      figure.subplots(1, 2, sharey=True), (0, 1), ("performance", "forgetting"), strict=True
    ):
      _bars(ax, [means[variant][k] for variant in order], drawing.COLOURS[k])
      ax.set_xlabel(f"{label}, image AUROC")
      ax.set_yticks(range(len(order)), order)

  caption = "Image AUROC after the last task, and the best earlier value minus that (FM, the last "
  caption += "task counts as 0, as in the paper); means over categories and seeds with 95 % "
  caption += "bootstrap intervals."
  title = f"Performance and forgetting on {dataset}"
  return drawing.draw(title, caption, paint, height=0.8 + 0.28 * len(means))


def _bars(ax: Any, means: list[Mean], colour: str) -> None:
  values = np.array([m.value for m in means])
  ends = np.array([m.interval or (m.value, m.value) for m in means])
  error = np.abs(ends.T - values)
  ax.barh(range(len(means)), values, color=colour, height=0.6)
  ax.errorbar(values, range(len(means)), xerr=error, fmt="none", ecolor=drawing.INK, elinewidth=1)
  for k, value in enumerate(values):
    at = max(value, ends[k].max(), 0)
    ax.annotate(f"{value:.3f}", (at, k), (4, 0), textcoords="offset points", va="center", size=8)
  ax.margins(x=0.2)


def noise(records: list[Record], dataset: str) -> Figure | None:
  """Draws image AUROC against the ratio of hidden defects, from at least two ratios.

  A ratio of 0 is the unsupervised setting, where a variant was run in it on the same categories.
  """
  every = [e for e in lines.entries(records) if e.dataset == dataset]
  noisy = [
    e
    for e in every
    if e.setting == "noisy"
    and not e.setting_kw.get("overlap")
    and e.setting_kw.get("reading", "of_normal") == "of_normal"
  ]
  curves: dict[str, dict[float, list[Entry]]] = {}
  for variant, es in lines.grouped(noisy).items():
    clean = [e for e in every if e.setting == "unsupervised" and e.method_kw == es[0].method_kw]
    points: dict[float, list[Entry]] = defaultdict(list)
    if {e.category for e in clean} == {e.category for e in es}:
      points[0.0] = clean
    for e in es:
      points[e.setting_kw["ratio"]].append(e)
    curves[variant] = points
  return _against(
    curves,
    f"Hidden defects on {dataset}",
    "Image AUROC against the ratio of defective images in training, mean over categories and seeds "
    "with 95 % bootstrap intervals.",
    "hidden defects / normal training images",
  )


def shots(records: list[Record], dataset: str) -> Figure | None:
  """Draws image AUROC against the number of training images, from at least two numbers."""
  found = [e for e in lines.entries(records) if (e.setting, e.dataset) == ("few_shot", dataset)]
  curves: dict[str, dict[float, list[Entry]]] = defaultdict(lambda: defaultdict(list))
  for variant, es in lines.grouped(found).items():
    for e in sorted(es, key=lambda e: (e.setting_kw["view"] != "none", e.setting_kw["view"])):
      view = e.setting_kw["view"]
      name = variant if view == "none" else f"{variant} + {view}"
      curves[name][float(e.setting_kw["shots"])].append(e)
  return _against(
    curves,
    f"Few images on {dataset}",
    "Image AUROC against the number of training images, mean over categories and seeds with 95 % "
    "bootstrap intervals; dashed with views of them.",
    "training images",
  )


def _against(
  curves: dict[str, dict[float, list[Entry]]], title: str, caption: str, label: str
) -> Figure | None:
  """Draws image AUROC of each curve's points as a line with a band.

  A name with " + " is another curve of what stands before it: of its colour, dashed.
  """
  means: dict[str, list[tuple[float, Mean]]] = {}
  for name, points in curves.items():
    found = [(x, lines.mean(points[x], "image_auroc")) for x in sorted(points)]
    means[name] = [(x, mean) for x, mean in found if mean]
  means = {name: points for name, points in means.items() if len(points) > 1}
  if not means:
    return None
  own = list(dict.fromkeys(name.partition(" + ")[0] for name in means))

  def paint(figure: matplotlib.figure.Figure) -> None:
    ax = figure.subplots()
    for name, points in means.items():
      main, plus, _ = name.partition(" + ")
      colour, marker = drawing.style(own.index(main))
      x = [at for at, _ in points]
      dash = "--" if plus else "-"
      y = [mean.value for _, mean in points]
      ax.plot(x, y, dash, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
      low, high = zip(*(m.interval or (m.value, m.value) for _, m in points), strict=True)
      ax.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    ticks = sorted({x for points in means.values() for x, _ in points})
    if min(ticks) >= 1:
      ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.set_xlabel(label)
    ax.set_ylabel("image AUROC")
    ax.grid(color=drawing.INK, alpha=0.12, linewidth=0.6)
    drawing.legend(figure, ax)

  return drawing.draw(title, caption, paint, height=max(3.2, 0.7 + 0.18 * len(means)))


KINDS = (
  Kind("the task-by-task matrix", matrices, f"{_MAIN}table_continual.py"),
  Kind("performance and forgetting", forgetting, f"{_MAIN}table_continual.py"),
  Kind("image AUROC against hidden defects", noise, f"{_MAIN}table_noisy.py"),
  Kind("image AUROC against training images", shots, f"{_MAIN}table_few_shot.py"),
  Kind(
    "accuracy against time and memory",
    tradeoff.picture,
    f"{_MAIN}table_unsupervised.py --config.efficiency",
  ),
)
"""The kinds of figures that are drawn of each data set, in the report's order."""


def all(records: list[Record]) -> list[Figure]:
  """Returns the figures there are data for, of each data set, and of all the ranks."""
  found = [kind.draw(mine, dataset) for kind in KINDS for dataset, mine in _sets(records)]
  return [figure for figure in [*found, ranks.diagram(ranks.of(records))] if figure]


def lacking(records: list[Record]) -> list[str]:
  """Returns a sentence for each kind of figure that no data set has the lines for."""
  out = [
    f"No lines show {kind.what}: {kind.command} makes them."
    for kind in KINDS
    if not any(kind.draw(mine, dataset) for dataset, mine in _sets(records))
  ]
  ranking = ranks.of(records)
  return out if ranks.drawable(ranking) else [*out, ranks.verdict(ranking)]


def _sets(records: list[Record]) -> list[tuple[str, list[Record]]]:
  """Returns the records of each data set."""
  out: dict[str, list[Record]] = defaultdict(list)
  for r in records:
    out[r["run"]["dataset"]].append(r)
  return list(out.items())
