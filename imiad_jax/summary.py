"""Records in short: a table for each data set and setting, a line for each method and variant."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from imiad_jax import tables
from imiad_jax.metrics import forgetting
from imiad_jax.records import Record
from imiad_jax.tables import Table


def of(rs: Iterable[Record]) -> list[tuple[str, Table]]:
  """Returns a titled table for each data set and setting: one line for each method and variant.

  Where several methods met several variants of a setting, another one has these across.
  A variant is a value of the setting's own parameters, of which those that vary are columns, or of
  a method's hyperparameters, of which those that vary stand beside its name. The metrics are means
  over categories after the last task, with the spread over seeds. Where anomalies were told, "seen"
  and "unseen" are the image AUROC of the kinds of defect that were and were not among them; else,
  where kinds are of tables.LOGICAL, "logical" and "damage" are that of these and of others. "s" is
  what a run took to learn and to score, without the features that runs share, on average; "GB" the
  most memory that one took, and "MB", where it was measured, what scoring reads of the State.
  """
  groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
  for record in rs:
    if record.get("rows"):
      groups[record["run"]["dataset"], record["run"]["setting"]].append(record)
  out: list[tuple[str, Table]] = []
  for (dataset, setting), group in groups.items():
    table = _variants(group)
    out += [(f"{setting} on {dataset}", table), *_crossed(f"{setting} on {dataset}", table)]
  return out


def _crossed(title: str, table: Table) -> list[tuple[str, Table]]:
  """Returns the first metric of a table of variants, methods down and the setting's values across.

  None where there is but one method or one variant of the setting.
  """
  first = next((k for k, name in enumerate(table[0]) if name in tables.SHORT.values()), 0)
  found = {(row[0], tuple(row[1:first])): row[first] for row in table[1:]}
  names = list(dict.fromkeys(name for name, _ in found))
  variants = {variant for _, variant in found}
  if min(len(names), len(variants)) < 2:
    return []
  across = sorted(variants, key=_order)
  lines = [[name, *(found.get((name, x), "") for x in across)] for name in names]
  by = " and ".join(table[0][1:first])
  return [(f"{title}: {table[0][first]} by {by}", [["method", *map(" ".join, across)], *lines])]


def _variants(rs: list[Record]) -> Table:
  kws = [r["run"]["setting_kw"] for r in rs]
  varies = [k for k in kws[0] if len({tables.plain(kw[k]) for kw in kws}) > 1]
  several = tables.varying(rs)
  lines: dict[tuple[str, ...], list[Record]] = defaultdict(list)
  for r, kw in zip(rs, kws, strict=True):
    name, own = r["run"]["method"], r["run"]["method_kw"]
    name = tables.with_values(name, {k: v for k, v in own.items() if (name, k) in several})
    lines[name, *(tables.plain(kw[k]) for k in varies)].append(r)
  used = [m for m in tables.METRICS if any(m in row for r in rs for row in r["rows"])]
  continual = any(row["learnt"] for r in rs for row in r["rows"])
  head = ["method", *varies, *(tables.SHORT[m] for m in used)]
  apart = _apart(rs)
  measured = any(r.get("efficiency") for r in rs)
  head += apart
  head += [f"FM {tables.SHORT[m]}" for m in used if continual] + ["s", "GB"] + ["MB"] * measured
  table = [head]
  for label in sorted(lines, key=_order):
    group = lines[label]
    row = [*label, *(tables.cell(_per_seed(group, m)) for m in used)]
    row += [tables.cell(_of_kinds(group, kinds)) for kinds in apart.values()]
    row += [tables.cell(_lost(group, m)) for m in used if continual] + _cost(group)
    table.append(row + [_megabytes(group)] * measured)
  return table


def _cost(rs: list[Record]) -> list[str]:
  """Returns the mean seconds of learning and scoring, and the peak of memory in GB."""
  spent = [
    sum(row["seconds"].get(k, 0) for row in r["rows"] for k in ("learn", "score")) for r in rs
  ]
  peak = max(r.get("peak_bytes", 0) for r in rs) / 1e9
  return [f"{np.mean(spent):.1f}", f"{peak:.1f}" if peak else "-"]


def _megabytes(rs: list[Record]) -> str:
  """Returns the most MB of a State that scoring reads."""
  found = [r.get("efficiency", {}).get("scoring_bytes", 0) for r in rs]
  return f"{max(found) / 1e6:.2f}" if any(found) else "-"


def _order(variant: tuple[str, ...]) -> list[list[str | float]]:
  return [tables.natural(value) for value in variant]


def _per_seed(rs: list[Record], metric: str) -> list[float]:
  """Returns for each seed the mean over categories of a metric after the last task."""
  found: dict[int, list[float]] = defaultdict(list)
  for r in rs:
    last = max(row["learnt"] for row in r["rows"])
    found[r["run"]["seed"]] += [
      row[metric] for row in r["rows"] if row["learnt"] == last and metric in row
    ]
  return [float(np.mean(v)) for v in found.values() if v]


def _apart(rs: list[Record]) -> dict[str, Callable[[Record, str], bool]]:
  """Returns by its name each part of the kinds of defect that is told of apart, if any is."""
  if any("told" in task for r in rs for task in r.get("selection", {}).values()):
    return {"seen": _told, "unseen": lambda r, kind: not _told(r, kind)}
  met = {kind for r in rs for row in r["rows"] for kind in row.get("kinds", ())}
  if met.isdisjoint(tables.LOGICAL):
    return {}
  return {
    "logical": lambda _, kind: kind in tables.LOGICAL,
    "damage": lambda _, kind: kind not in tables.LOGICAL,
  }


def _told(r: Record, kind: str) -> bool:
  return any(kind in task.get("told", ()) for task in r["selection"].values())


def _of_kinds(rs: list[Record], chosen: Callable[[Record, str], bool]) -> list[float]:
  """Returns for each seed the mean image AUROC of some kinds of defect, after the last task.

  Kinds of a category weigh the same, and so do categories.
  """
  found: dict[int, list[float]] = defaultdict(list)
  for r in rs:
    last = max(row["learnt"] for row in r["rows"])
    for row in (row for row in r["rows"] if row["learnt"] == last):
      kinds = [v["auroc"] for k, v in row.get("kinds", {}).items() if chosen(r, k)]
      found[r["run"]["seed"]] += [float(np.mean(kinds))] if kinds else []
  return [float(np.mean(v)) for v in found.values() if v]


def _lost(rs: list[Record], metric: str) -> list[float]:
  """Returns the forgetting of each run that forgot, over its earlier categories."""
  ms = [m for m in (tables.matrix(r, metric) for r in rs) if m is not None]
  return [lost[0] for lost in map(forgetting, ms) if lost]
