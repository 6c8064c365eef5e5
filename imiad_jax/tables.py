"""Records as tables, for the terminal, Markdown and CSV."""

import csv
import io
import re
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
SHORT = {"image_auroc": "I-AUROC", "image_ap": "I-AP", "image_f1max": "I-F1"} | {
  "pixel_auroc": "P-AUROC",
  "pixel_ap": "P-AP",
  "pixel_f1max": "P-F1",
  "pixel_pro": "PRO",
  "spro@0.05": "sPRO@.05",
}

LOGICAL = ("logical_anomalies", "missing", "extra", "swapped", "mismatch")
"""Kinds of defect of which every part looks good: MVTec LOCO's, and those of drawn data sets."""

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
  table = [["category", *(SHORT[m] for m in used)]]
  for name, f in found.items():
    table.append([name, *(cell(f.get(m, [])) for m in used)])
  if len(found) > 1:
    means = [[np.mean(f[m]) for f in found.values() if m in f] for m in used]
    table.append(["mean", *(f"{np.mean(x):.3f}" for x in means)])
  return table


def cell(values: list[float]) -> str:
  """Returns the mean of values, and their spread where there are several; "-" of none."""
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
          SHORT[metric],
          cell([float(np.mean(m[-1])) for m in ms]),
          cell([x[0] for x in lost if x]),
          cell([x[1] for x in lost if x]),
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


def sections(rs: Iterable[Record]) -> list[tuple[str, Table]]:
  """Returns titled tables of records, grouped by what they have in common but seed and category.

  The categories of a run of several stay together: they are its tasks, in order. A title names the
  hyperparameters that vary among the records of a method, and the setting's that are not empty.
  """
  every = list(rs)
  varies = varying(every)
  groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
  for record in every:
    run = record["run"]
    own = {k: v for k, v in run["method_kw"].items() if (run["method"], k) in varies}
    title = with_values(f"{run['method']} on {run['dataset']}, {setting(run)}", own)
    tasks = run["categories"] if len(run["categories"]) > 1 else []
    groups[title, with_values("", record["versions"]), *tasks].append(record)
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


def varying(rs: Iterable[Record]) -> set[tuple[str, str]]:
  """Returns (method, hyperparameter) of which the records have several values."""
  seen: dict[tuple[str, str], set[str]] = defaultdict(set)
  for run in (r["run"] for r in rs):
    for k, v in run["method_kw"].items():
      seen[run["method"], k].add(plain(v))
  return {key for key, values in seen.items() if len(values) > 1}


def setting(run: dict[str, Any]) -> str:
  """Returns the name of a run's setting, with its parameters that are not empty."""
  return with_values(run["setting"], {k: v for k, v in run["setting_kw"].items() if v != []})


def plain(value: Any) -> str:
  """Returns a hyperparameter as text, a list joined by "+"."""
  return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def natural(text: str) -> list[str | float]:
  """Returns a key that sorts text by the alphabet, but numbers in it by value: 9 before 10."""
  parts = re.split(r"(\d+(?:\.\d+)?)", text.lower())
  return [float(part) if k % 2 else part for k, part in enumerate(parts)]


def with_values(name: str, kw: dict[str, Any]) -> str:
  """Returns "name (key=value, key=value)", or the name alone."""
  return f"{name} ({', '.join(f'{k}={plain(v)}' for k, v in kw.items())})" if kw else name


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
