"""Lines of results as entries that can be averaged: one for each run and category it tested.

Notation: c categories, s seeds. A category is named "data set/category", so that categories of
several data sets can stand in one matrix.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from imiad_jax import metrics, plugins, tables
from imiad_jax.records import Record


class Entry(NamedTuple):
  """What a run measured of one category after its last task."""

  dataset: str
  setting: str
  setting_kw: dict[str, Any]
  method: str
  method_kw: dict[str, Any]
  variant: str  # the method's name, with the hyperparameters that vary within data set and setting
  category: str  # "data set/category"
  seed: int
  values: dict[str, float]  # metrics of the line, and those that `_values` adds
  cost: dict[str, float]  # of the run, see efficiency.measure; {} where it was not measured


class Mean(NamedTuple):
  """A mean over categories and seeds."""

  value: float
  spread: float | None  # standard deviation over seeds, None for one seed
  interval: tuple[float, float] | None  # see `interval`
  count: tuple[int, int]  # categories, seeds


def entries(records: Iterable[Record]) -> list[Entry]:
  """Returns what the present lines measured, in their order; see `present`."""
  out: list[Entry] = []
  for variant, record in labelled(records):
    run = record["run"]
    fixed = run["dataset"], run["setting"], run["setting_kw"], run["method"], run["method_kw"]
    for category, values in _values(record).items():
      where = category if "/" in category else f"{run['dataset']}/{category}"
      cost = record.get("efficiency", {})
      out.append(Entry(*fixed, variant, where, run["seed"], values, cost))
  return out


def labelled(records: Iterable[Record]) -> list[tuple[str, Record]]:
  """Returns the present lines with their variants' names, see `Entry`."""
  kept = present(records)
  groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
  for record in kept:
    groups[record["run"]["dataset"], record["run"]["setting"]].append(record)
  varies = {where: tables.varying(group) for where, group in groups.items()}
  out: list[tuple[str, Record]] = []
  for record in kept:
    run = record["run"]
    several = varies[run["dataset"], run["setting"]]
    own = {k: v for k, v in run["method_kw"].items() if (run["method"], k) in several}
    out.append((tables.with_values(named(run["method"]), own), record))
  return out


def present(records: Iterable[Record]) -> list[Record]:
  """Returns the good lines of each method's highest version; of equal runs the latest one."""
  good = [r for r in records if r.get("rows")]
  newest: dict[str, tuple[int, str]] = {}
  for r in good:
    method, version = r["run"]["method"], _order(r)
    newest[method] = max(newest.get(method, version), version)
  kept: dict[str, Record] = {}
  for r in sorted(good, key=lambda r: r.get("time", "")):
    if _order(r) == newest[r["run"]["method"]]:
      kept[json.dumps(r["run"], sort_keys=True)] = r
  chosen = set(map(id, kept.values()))
  return [r for r in good if id(r) in chosen]


@functools.cache
def named(method: str) -> str:
  """Returns a method as its file calls it; one without a file by its own name."""
  if method not in plugins.names("methods"):
    return method
  name, colon, _ = str(plugins.load("methods", method).__doc__).partition(":")
  return name if colon else method


def grouped(found: Iterable[Entry]) -> dict[str, list[Entry]]:
  """Returns the entries of each variant, variants in their natural order."""
  out: dict[str, list[Entry]] = defaultdict(list)
  for e in found:
    out[e.variant].append(e)
  return {k: out[k] for k in sorted(out, key=tables.natural)}


def best(found: list[Entry], metric: str, lower: bool = False) -> list[Entry]:
  """Returns the entries of the variant whose mean of a metric is highest; [] where none has it.

  `lower`: less of the metric is better.
  """
  variants = {k: [e for e in es if metric in e.values] for k, es in grouped(found).items()}
  means = {k: level(es, metric) for k, es in variants.items() if es}
  if not means:
    return []
  return variants[(min if lower else max)(means, key=means.__getitem__)]


def level(found: Iterable[Entry], metric: str) -> float:
  """Returns the mean of a metric as `mean` does, of entries of which some have it."""
  return float(np.nanmean(matrix(found, metric), axis=1).mean())


def matrix(found: Iterable[Entry], metric: str) -> Float[np.ndarray, "c s"]:
  """Returns a metric of categories by seeds, both sorted, NaN where a run lacks.

  A category without any value is left out, and so is a seed.
  """
  cells: dict[tuple[str, int], list[float]] = defaultdict(list)
  for e in found:
    if metric in e.values:
      cells[e.category, e.seed].append(e.values[metric])
  categories, seeds = sorted({c for c, _ in cells}), sorted({s for _, s in cells})
  out = np.full((len(categories), len(seeds)), np.nan)
  for (category, seed), values in cells.items():
    out[categories.index(category), seeds.index(seed)] = np.mean(values)
  return out


def mean(found: Iterable[Entry], metric: str) -> Mean | None:
  """Returns the mean of a metric, categories weighing the same; None where nothing has it.

  The spread is that of the seeds' means over the categories.
  """
  return summarise(matrix(found, metric))


def summarise(values: Float[np.ndarray, "c s"]) -> Mean | None:
  """Returns the mean of a matrix with holes, as `mean`; a hole takes the mean of its category."""
  if not values.size:
    return None
  full = np.where(np.isnan(values), np.nanmean(values, axis=1, keepdims=True), values)
  seeds = full.mean(axis=0)
  spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
  return Mean(float(full.mean()), spread, interval(full), full.shape)


def interval(values: Float[np.ndarray, "c s"], resamples: int = 1000) -> tuple[float, float] | None:
  """Returns the 95 % percentile bootstrap interval of the mean over categories and seeds.

  Both are drawn with replacement, independently of each other (the pigeonhole bootstrap of Owen,
  arXiv 0712.1111); that with a single entry stays fixed. None for one run.
  """
  ways = [np.arange(n) for n in values.shape]
  free = [k for k, way in enumerate(ways) if len(way) > 1]
  if not free:
    return None

  def statistic(*drawn: np.ndarray, axis: int) -> np.ndarray:
    del axis  # -1
    chosen = iter(drawn)
    c, s = (next(chosen) if k in free else way for k, way in enumerate(ways))
    return values[c[..., :, None], s[..., None, :]].mean(axis=(-2, -1))

  found = scipy.stats.bootstrap(
    [ways[k] for k in free],
    statistic,
    n_resamples=resamples,
    vectorized=True,
    method="percentile",
    rng=np.random.default_rng(0),
  ).confidence_interval
  return float(found.low), float(found.high)


def _order(record: Record) -> tuple[int, str]:
  """Returns what sorts versions, so that 10 comes after 9."""
  version = str(record["versions"].get("method", ""))
  return len(version), version


def _values(record: Record) -> dict[str, dict[str, float]]:
  """Returns for each category its numbers after the last task, and what follows from the line.

  "fm_*"                      forgetting; its mean over categories is what IM-IAD prints, where the
                              last task counts as 0
  "image_auroc_logical", "image_auroc_structural", "image_auroc_mean"
                              where kinds are of tables.LOGICAL: means over kinds, and their mean
  """
  rows = record["rows"]
  last = max(row["learnt"] for row in rows)
  out: dict[str, dict[str, float]] = {}
  for row in rows:
    if row["learnt"] == last:
      said = {k: v for k, v in row.items() if k != "learnt"}
      numbers = {k: float(v) for k, v in said.items() if isinstance(v, int | float)}
      out[row["task"]] = numbers | _by_kind(row.get("kinds", {}))
  names = list(dict.fromkeys(row["task"] for row in rows))
  for metric in tables.METRICS if last else ():
    if (found := tables.matrix(record, metric)) is not None:
      for j, category in enumerate(names):
        lost = metrics.forgetting(found[:, [j]])
        out[category][f"fm_{metric}"] = lost[0] if lost else 0.0
  return out


def _by_kind(kinds: dict[str, dict[str, float]]) -> dict[str, float]:
  """Returns the image AUROC of logical and of structural kinds, where there are both."""
  logical = [v["auroc"] for k, v in kinds.items() if k in tables.LOGICAL]
  structural = [v["auroc"] for k, v in kinds.items() if k not in tables.LOGICAL]
  if not logical or not structural:
    return {}
  found = float(np.mean(logical)), float(np.mean(structural))
  names = ("image_auroc_logical", "image_auroc_structural", "image_auroc_mean")
  return dict(zip(names, (*found, sum(found) / 2), strict=True))
