"""Records as tables, for the terminal, Markdown and CSV."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from imiad_jax.metrics import forgetting
from imiad_jax.records import Record

METRICS = (
  *("image_auroc", "image_ap", "image_f1max"),
  *("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_pro", "spro@0.05"),
)
_SHORT = {"image_auroc": "I-AUROC", "image_ap": "I-AP", "image_f1max": "I-F1"} | {
  "pixel_auroc": "P-AUROC",
  "pixel_ap": "P-AP",
  "pixel_f1max": "P-F1",
  "pixel_pro": "PRO",
  "spro@0.05": "sPRO@.05",
}

Table = list[list[str]]  # the first row is the head


def matrix(record: Record, metric: str) -> np.ndarray | None:
  """Returns [t,c], the metric on category j after learning task i, NaN before its own task.

  None where the run does not have the metric for every category.
  """
  names = list(dict.fromkeys(row["task"] for row in record["rows"]))
  out = np.full((1 + max(row["learnt"] for row in record["rows"]), len(names)), np.nan)
  for row in record["rows"]:
    if metric not in row:
      return None
    out[row["learnt"], names.index(row["task"])] = row[metric]
  return out


def scores(rs: list[Record]) -> Table:
  """Returns a table of categories by metrics, after the last task, mean (and spread) over seeds."""
  found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
  for record in rs:
    last = max(row["learnt"] for row in record["rows"])
    for row in record["rows"]:
      if row["learnt"] == last:
        for metric in METRICS:
          if metric in row:
            found[row["task"]][metric].append(row[metric])
  used = [m for m in METRICS if any(m in f for f in found.values())]
  table = [["category", *(_SHORT[m] for m in used)]]
  for name, f in found.items():
    table.append([name, *(_cell(f.get(m, [])) for m in used)])
  if len(found) > 1:
    means = [[np.mean(f[m]) for f in found.values() if m in f] for m in used]
    table.append(["mean", *(f"{np.mean(x):.3f}" for x in means)])
  return table


def _cell(values: list[float]) -> str:
  if not values:
    return "-"
  spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
  return f"{np.mean(values):.3f}".replace("-0.000", "0.000") + spread


def forgetting_table(rs: list[Record]) -> Table:
  """Returns performance and forgetting of a continual run, by metric, mean over seeds.

  FM is the mean over the first T-1 tasks (Chaudhry et al.); FM/T the same sum divided by T, as in
  the paper's tables.
  """
  table = [["metric", "performance", "FM", "FM/T"]]
  for metric in METRICS:
    ms = [m for m in (matrix(r, metric) for r in rs) if m is not None and len(m) > 1]
    if ms:
      lost = [forgetting(m) for m in ms]
      table.append(
        [
          _SHORT[metric],
          _cell([float(np.mean(m[-1])) for m in ms]),
          _cell([x[0] for x in lost if x]),
          _cell([x[1] for x in lost if x]),
        ]
      )
  return table


def matrix_table(rs: list[Record], metric: str) -> Table:
  """Returns the task-by-task matrix of a metric, mean over seeds: learnt down, tested across.

  Without rows where no run has the metric for every task.
  """
  names = list(dict.fromkeys(row["task"] for row in rs[0]["rows"]))
  table = [["after learning", *names]]
  ms = [m for m in (matrix(r, metric) for r in rs) if m is not None]
  if not ms:
    return table
  mean = np.mean(ms, axis=0)
  for i, values in enumerate(mean):
    new = np.isfinite(values) & (i == 0 or np.isnan(mean[i - 1]))
    learnt = "+".join(n for n, first in zip(names, new, strict=True) if first)
    table.append([learnt, *("" if np.isnan(v) else f"{v:.3f}" for v in values)])
  return table


def summary(rs: Iterable[Record]) -> list[tuple[str, Table]]:
  """Returns a titled table for each data set and setting: one line for each method and variant.

  Where several methods met several variants of a setting, another one has these across.
  A variant is a value of the setting's own parameters, of which those that vary are columns, or of
  a method's hyperparameters, of which those that vary stand beside its name. The metrics are means
  over categories after the last task, with the spread over seeds. Where anomalies were told, "seen"
  and "unseen" are the image AUROC of the kinds of defect that were and were not among them. "s" is
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
  first = next((k for k, name in enumerate(table[0]) if name in _SHORT.values()), 0)
  found = {(row[0], tuple(row[1:first])): row[first] for row in table[1:]}
  names = list(dict.fromkeys(name for name, _ in found))
  variants = {variant for _, variant in found}
  if min(len(names), len(variants)) < 2:
    return []
  across = sorted(variants, key=lambda x: [(_number(v), v) for v in x])
  lines = [[name, *(found.get((name, x), "") for x in across)] for name in names]
  by = " and ".join(table[0][1:first])
  return [(f"{title}: {table[0][first]} by {by}", [["method", *map(" ".join, across)], *lines])]


def _variants(rs: list[Record]) -> Table:
  kws = [r["run"]["setting_kw"] for r in rs]
  varies = [k for k in kws[0] if len({_plain(kw[k]) for kw in kws}) > 1]
  seen: dict[tuple[str, str], set[str]] = defaultdict(set)
  for run in (r["run"] for r in rs):
    for k, v in run["method_kw"].items():
      seen[run["method"], k].add(_plain(v))
  lines: dict[tuple[str, ...], list[Record]] = defaultdict(list)
  for r, kw in zip(rs, kws, strict=True):
    name, own = r["run"]["method"], r["run"]["method_kw"]
    name = _with(name, {k: v for k, v in own.items() if len(seen[name, k]) > 1})
    lines[name, *(_plain(kw[k]) for k in varies)].append(r)
  used = [m for m in METRICS if any(m in row for r in rs for row in r["rows"])]
  continual = any(row["learnt"] for r in rs for row in r["rows"])
  head = ["method", *varies, *(_SHORT[m] for m in used)]
  told = any("told" in task for r in rs for task in r.get("selection", {}).values())
  measured = any(r.get("efficiency") for r in rs)
  head += ["seen", "unseen"] * told
  head += [f"FM {_SHORT[m]}" for m in used if continual] + ["s", "GB"] + ["MB"] * measured
  table = [head]
  for label in sorted(lines, key=lambda x: [(_number(v), v) for v in x]):
    group = lines[label]
    row = [*label, *(_cell(_per_seed(group, m)) for m in used)]
    row += [_cell(_of_kinds(group, seen)) for seen in (True, False) if told]
    row += [_cell(_lost(group, m)) for m in used if continual] + _cost(group)
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


def _number(value: str) -> float:
  """Returns the number that a value is, so that 2 comes before 10; words come first."""
  try:
    return float(value)
  except ValueError:
    return -np.inf


def _per_seed(rs: list[Record], metric: str) -> list[float]:
  """Returns for each seed the mean over categories of a metric after the last task."""
  found: dict[int, list[float]] = defaultdict(list)
  for r in rs:
    last = max(row["learnt"] for row in r["rows"])
    found[r["run"]["seed"]] += [
      row[metric] for row in r["rows"] if row["learnt"] == last and metric in row
    ]
  return [float(np.mean(v)) for v in found.values() if v]


def _of_kinds(rs: list[Record], seen: bool) -> list[float]:
  """Returns for each seed the mean image AUROC of kinds of defect that were told, or were not.

  Kinds of a category weigh the same, and so do categories.
  """
  found: dict[int, list[float]] = defaultdict(list)
  for r in rs:
    told = {kind for task in r["selection"].values() for kind in task.get("told", ())}
    for row in r["rows"]:
      kinds = [v["auroc"] for k, v in row.get("kinds", {}).items() if (k in told) == seen]
      found[r["run"]["seed"]] += [float(np.mean(kinds))] if kinds else []
  return [float(np.mean(v)) for v in found.values() if v]


def _lost(rs: list[Record], metric: str) -> list[float]:
  """Returns the forgetting of each run that forgot, over its earlier categories."""
  ms = [m for m in (matrix(r, metric) for r in rs) if m is not None]
  return [lost[0] for lost in map(forgetting, ms) if lost]


def sections(rs: Iterable[Record]) -> list[tuple[str, Table]]:
  """Returns titled tables of records, grouped by what they have in common but seed and category.

  The categories of a run of several stay together: they are its tasks, in order.
  """
  groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
  for record in rs:
    run = record["run"]
    title = f"{run['method']} on {run['dataset']}, {_with(run['setting'], run['setting_kw'])}"
    tasks = run["categories"] if len(run["categories"]) > 1 else []
    versions = _with("", record["versions"])
    groups[_with(title, run["method_kw"]), versions, *tasks].append(record)
  out: list[tuple[str, Table]] = []
  for (title, versions, *_), group in groups.items():
    if len({v for t, v, *_ in groups if t == title}) > 1:
      title += versions
    good = [r for r in group if r.get("rows")]
    if any(r.get("rows") == [] for r in group):
      out.append((f"{title}: learnt, but there are no test images to measure it on", []))
    for record in group:
      if "error" in record:
        name = "+".join(record["run"]["categories"])
        out.append((f"{title}: FAILED on {name}: {record['error']}", []))
    if not good:
      continue
    if any(row["learnt"] for r in good for row in r["rows"]):
      out.append((f"{title}: image AUROC task by task", matrix_table(good, "image_auroc")))
      out.append((f"{title}: after the last task, and forgetting", forgetting_table(good)))
    else:
      out.append((title, scores(good)))
  return out


def _plain(value: Any) -> str:
  return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _with(name: str, kw: dict[str, Any]) -> str:
  """Returns "name (key=value, key=value)", or the name alone."""
  return f"{name} ({', '.join(f'{k}={_plain(v)}' for k, v in kw.items())})" if kw else name


def text(tables: Iterable[tuple[str, Table]]) -> str:
  """Returns titled tables for a terminal."""
  parts: list[str] = []
  for title, table in tables:
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))] if table else []
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in table]
    if lines:
      lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    parts.append("\n".join([title, "", *lines]))
  return "\n\n".join(parts)


def markdown(rs: Iterable[Record]) -> str:
  """Returns the tables as Markdown."""
  parts: list[str] = []
  for title, table in sections(rs):
    parts.append("\n".join([f"## {title}", "", *([as_markdown(table)] if table else [])]))
  return "\n\n".join(parts) + "\n"


def as_markdown(table: Table) -> str:
  """Returns one table as Markdown."""
  lines = ["| " + " | ".join(row) + " |" for row in table]
  return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def rows_csv(rs: Iterable[Record]) -> str:
  """Returns every measured number as tidy CSV, one line for each run, task learnt and tested."""
  out = io.StringIO()
  head = ["id", "setting", "dataset", "method", "seed", "learnt", "task", *METRICS]
  writer = csv.DictWriter(out, head, extrasaction="ignore", lineterminator="\n")
  writer.writeheader()
  for record in rs:
    for row in record.get("rows", []):
      writer.writerow({"id": record["id"]} | record["run"] | row)
  return out.getvalue()
