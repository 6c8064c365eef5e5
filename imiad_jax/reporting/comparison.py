"""The paper's tables from our lines, each row of ours beside the published one.

A number of ours is the mean over categories and seeds, categories weighing the same, with its
spread over seeds; its note has the bootstrap interval. A number of the paper is its average over
categories.
"""

import json
from collections import defaultdict
from typing import Any

from imiad_jax.records import Record
from imiad_jax.reporting import grid, lines
from imiad_jax.reporting.grid import Cell, Column, Row, Table
from imiad_jax.reporting.lines import Entry

__all__ = ["HEADS", "Cell", "Row", "Table", "tables"]

HEADS = {
  "image_auroc": "image AUROC",
  "image_ap": "image AP",
  "pixel_auroc": "pixel AUROC",
  "pixel_ap": "pixel AP",
  "pixel_pro": "PRO",
  "spro@0.05": "sPRO@0.05",
}
"""How the metrics of the paper's tables are called."""

_LOGICAL = {
  "image_auroc_logical": ("image AUROC, logical", "image_auroc_logical"),
  "image_auroc_structural": ("image AUROC, structural", "image_auroc_structural"),
  "image_auroc_mean": ("image AUROC, mean", "image_auroc_mean"),
  "spro@0.05_logical": ("sPRO@0.05, logical", "spro_logical@0.05"),
  "spro@0.05_structural": ("sPRO@0.05, structural", "spro_structural@0.05"),
  "spro@0.05": ("sPRO@0.05, mean", "spro_mean@0.05"),
}


def tables(records: list[Record]) -> list[Table]:
  """Returns a table for each table of the paper and data set that there are lines of."""
  found = lines.entries(records)
  out: list[Table] = []
  for dataset in dict.fromkeys(e.dataset for e in found):
    mine = [e for e in found if e.dataset == dataset]
    for make in (_plain, _logical, _supervised, _few_shot, _noisy, _continual, _reweighted, _all):
      out += make(dataset, mine)
  return out


# ---- the tables, in the paper's order ----


def _plain(dataset: str, found: list[Entry]) -> list[Table]:
  mine = [e for e in found if e.setting == "unsupervised"]
  columns = [_metric(m, "unsupervised", "") for m in HEADS]
  return grid.make(f"Unsupervised on {dataset}", "VI", dataset, lines.grouped(mine), columns)


def _logical(dataset: str, found: list[Entry]) -> list[Table]:
  mine = [e for e in found if e.setting == "unsupervised" and "image_auroc_logical" in e.values]
  columns = [
    Column(head, metric, "unsupervised", {}, ("unsupervised", "", printed))
    for metric, (head, printed) in _LOGICAL.items()
  ]
  return grid.make(f"Logical anomalies on {dataset}", "VII", dataset, lines.grouped(mine), columns)


def _supervised(dataset: str, found: list[Entry]) -> list[Table]:
  out: list[Table] = []
  for kw, mine in _protocols(found, "fully_supervised", ()):
    told, kinds = kw.get("anomalies", 10), kw.get("kinds", 0)
    title = f"{told} anomalies told on {dataset}"
    title += f", of {kinds} kind{'s' * (kinds > 1)} of defect" if kinds else ""
    detail = None if kinds else f"anomalies={told}"
    columns = [_metric(m, "fully_supervised", detail) for m in HEADS]
    out += grid.make(title, "VIII", dataset, lines.grouped(mine), columns)
  return out


def _few_shot(dataset: str, found: list[Entry]) -> list[Table]:
  mine = [e for e in found if e.setting == "few_shot"]
  pairs = {(e.setting_kw["view"], e.setting_kw["shots"]) for e in mine}
  columns: list[Column] = []
  for view, shots in sorted(pairs, key=lambda p: (p[0] != "none", p)):
    printed = ("few_shot", f"shots={shots}", "image_auroc")
    head = f"{shots} image{'s' * (shots > 1)}"
    if view != "none":
      printed = ("few_shot_aug", f"aug={view};shots={shots}", "image_auroc")
      head += f", {view}"
    kw = {"view": view, "shots": shots}
    columns.append(Column(head, "image_auroc", "few_shot", kw, printed))
  title = f"Image AUROC from few images on {dataset}"
  return grid.make(title, "IX", dataset, lines.grouped(mine), columns)


def _noisy(dataset: str, found: list[Entry]) -> list[Table]:
  out: list[Table] = []
  found = [e for e in found if e.method_kw.get("reweight", 1) == 1]
  for kw, mine in _protocols(found, "noisy", ("ratio",)):
    title = f"Image AUROC with hidden defects on {dataset}{_said(kw, reading='of_normal')}"
    columns = _ratios(mine, "" if kw.get("reading", "of_normal") == "of_normal" else None)
    out += grid.make(title, "X", dataset, lines.grouped(mine), columns)
  return out


def _continual(dataset: str, found: list[Entry]) -> list[Table]:
  out: list[Table] = []
  for kw, mine in _protocols(found, "continual", ()):
    columns: list[Column] = []
    for metric, head in HEADS.items():
      for stage, name, short in (
        ("performance", metric, ""),
        ("forgetting_measure", f"fm_{metric}", ", FM"),
      ):
        printed = None if kw.get("sizes") else ("continual", f"stage={stage}", name)
        columns.append(Column(head + short, name, "continual", {}, printed))
    title = f"Task after task on {dataset}{_said(kw)}"
    out += grid.make(title, "XI", dataset, lines.grouped(mine), columns)
  return out


def _reweighted(dataset: str, found: list[Entry]) -> list[Table]:
  every = [e for e in found if e.method == "patchcore"]
  out: list[Table] = []
  for kw, mine in _protocols(every, "noisy", ("ratio",)):
    groups: dict[str, list[Entry]] = defaultdict(list)
    for e in sorted(mine, key=lambda e: e.method_kw.get("reweight", 1)):
      groups[f"PatchCore, neighbours: {e.method_kw.get('reweight', 1)}"].append(e)
    if len(groups) > 1:
      title = f"Image AUROC by neighbours of re-weighting on {dataset}"
      title += _said(kw, reading="of_normal")
      columns = _ratios(mine, ";reweight_neighbours=")
      out += grid.make(title, "XII", dataset, dict(groups), columns)
  return out


def _all(dataset: str, found: list[Entry]) -> list[Table]:
  """Makes Table XIII; its noise and its shots are those at hand that are nearest to the paper's."""
  noisy = [e.setting_kw["ratio"] for e in found if e.setting == "noisy"]
  shots = [e.setting_kw["shots"] for e in found if e.setting == "few_shot"]
  ratio = min(noisy, key=lambda r: abs(r - 0.15), default=0.15)
  few = min(shots, key=lambda k: abs(k - 8), default=8)
  settings: list[tuple[str, str, dict[str, Any], str]] = [
    ("vanilla", "unsupervised", {}, ""),
    (f"noisy {ratio:g}", "noisy", {"ratio": ratio}, f"noise_ratio={ratio:g}"),
    (f"{few}-shot", "few_shot", {"shots": few, "view": "none"}, f"shots={few}"),
    ("continual", "continual", {}, "stage=performance"),
  ]
  groups: dict[str, list[Entry]] = defaultdict(list)
  for e in sorted(found, key=lambda e: lines.named(e.method).lower()):
    if e.method_kw.get("reweight", 1) == 1:
      groups[lines.named(e.method)].append(e)
  out: list[Table] = []
  for metric in ("image_auroc", "pixel_ap"):
    columns = [Column(h, metric, s, kw, (s, detail, metric)) for h, s, kw, detail in settings]
    whole = ("mean_of_settings", "" if (ratio, few) == (0.15, 8) else "other", metric)
    last = Column("mean of the four", metric, "mean_of_settings", {}, whole)
    every = {g: [*es, *_averaged(es, columns)] for g, es in groups.items()}
    title = f"One view of all settings on {dataset}: {HEADS[metric]}"
    made = grid.make(title, "XIII", dataset, every, [*columns, last])
    out += [table for table in made if len(table.head) > 2]  # of one setting is no view of all
  return out


def _averaged(found: list[Entry], columns: list[Column]) -> list[Entry]:
  """Returns the means over columns, for each category and seed that all of them have."""
  metric = columns[0].metric
  shown = [
    {(e.category, e.seed): e for e in grid.chosen(found, c) if metric in e.values} for c in columns
  ]
  out: list[Entry] = []
  for key in sorted(set.intersection(*map(set, shown))):
    value = sum(part[key].values[metric] for part in shown) / len(shown)
    entry = shown[0][key]
    out.append(entry._replace(setting="mean_of_settings", setting_kw={}, values={metric: value}))
  return out


# ---- what they are made of ----


def _metric(metric: str, setting: str, detail: str | None) -> Column:
  """Returns the column of a metric; `detail` None where the paper has no such protocol."""
  name = "spro_mean@0.05" if metric == "spro@0.05" else metric
  printed = None if detail is None else (setting, detail, name)
  return Column(HEADS[metric], metric, setting, {}, printed)


def _ratios(found: list[Entry], more: str | None) -> list[Column]:
  """Returns a column for each ratio; `more` stands behind it in the paper's detail."""
  out: list[Column] = []
  for ratio in sorted({e.setting_kw["ratio"] for e in found}):
    detail = None if more is None else f"noise_ratio={ratio:g}{more}"
    printed = None if detail is None else ("noisy", detail, "image_auroc")
    out.append(Column(f"ratio {ratio:g}", "image_auroc", "noisy", {"ratio": ratio}, printed))
  return out


def _protocols(
  found: list[Entry], setting: str, across: tuple[str, ...]
) -> list[tuple[dict[str, Any], list[Entry]]]:
  """Returns a setting's entries by its parameters, but for those that stand across a table."""
  out: dict[str, list[Entry]] = defaultdict(list)
  for e in found:
    if e.setting == setting:
      kw = {k: v for k, v in e.setting_kw.items() if k not in across}
      out[json.dumps(kw, sort_keys=True)].append(e)
  return [(json.loads(kw), mine) for kw, mine in out.items()]


def _said(kw: dict[str, Any], **usual: Any) -> str:
  """Returns ", key=value" for each parameter that is set and is not as usual."""
  return "".join(f", {k}={v}" for k, v in kw.items() if v and usual.get(k) != v)
