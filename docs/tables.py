"""Writes the tables of README.md from the lines of results/published, the paper's beside ours.

  python docs/tables.py

What stands between `<!-- table: NAME -->` and `<!-- end -->` is made anew; tests/test_readme.py
fails where that would change the file.
"""

import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from imiad_jax import plugins, published, records, summary, tables
from imiad_jax.records import Record
from imiad_jax.reporting import lines as names

ROOT = pathlib.Path(__file__).parents[1]
_STRUCTURAL = ("bottle", "capsule", "plate", "woven")
_HEAD = {
  "image_auroc": "image AUROC",
  "image_ap": "image AP",
  "pixel_auroc": "pixel AUROC",
  "pixel_ap": "pixel AP",
  "pixel_pro": "PRO",
}


def lines(setting: str, dataset: str) -> dict[str, list[Record]]:
  """Returns the good lines of each method in a setting on a data set, of its present VERSION."""
  folder = ROOT / "results" / "published" / setting / dataset
  found = {file.stem: records.read(file) for file in sorted(folder.glob("*.jsonl"))}
  good: dict[str, list[Record]] = {}
  for method, rs in found.items():
    version = plugins.load("methods", method).VERSION
    good[method] = [r for r in rs if r.get("rows") and r["versions"]["method"] == version]
  return {method: rs for method, rs in good.items() if rs}


def beside_the_paper(dataset: str) -> tables.Table:
  """Returns a line of ours for each method, unsupervised, and the paper's below it."""
  table = [["", *_HEAD.values()]]
  for method, rs in lines("unsupervised", dataset).items():
    table.append([f"{names.named(method)}, ours", *(_mean(rs, m) for m in _HEAD)])
    paper = published.of("unsupervised", dataset, method)
    if paper:
      kept = {m: f"{c.value:.3f}" for m, c in paper.items() if not c.doubt}
      table.append([f"*{names.named(method)}, paper*", *(kept.get(m, "") for m in _HEAD)])
  return table


def drawn() -> tables.Table:
  """Returns a line for each method, unsupervised on the drawn data set; categories weigh alike."""
  head = ["", "categories x seeds", *_HEAD.values(), "structural: image", "structural: pixel"]
  table = [head]
  for method, rs in lines("unsupervised", "synthetic").items():
    each: dict[str, list[Record]] = {}
    for r in rs:
      each.setdefault(r["run"]["categories"][0], []).append(r)
    part = [mine for name, mine in each.items() if name in _STRUCTURAL]
    row = [names.named(method), _count(rs), *(_of_categories(each.values(), m) for m in _HEAD)]
    table.append([*row, *(_of_categories(part, m) for m in ("image_auroc", "pixel_auroc"))])
  return table


def logical(dataset: str, kinds: str) -> tables.Table:
  """Returns image AUROC of each method on the categories of a data set that have logical kinds.

  Of all defects, and means over the kinds that are damage and over the others, which `kinds` names.
  """
  head = {
    "image_auroc": "image AUROC",
    "image_auroc_structural": "damage",
    "image_auroc_logical": kinds,
  }
  found: dict[str, list[names.Entry]] = {}
  for e in names.entries(_every("unsupervised", dataset)):
    if "image_auroc_logical" in e.values:
      found.setdefault(e.method, []).append(e)
  return [
    ["", "seeds", *head.values()],
    *(
      [
        names.named(method),
        str(len({e.seed for e in mine})),
        *(f"{sum(e.values[m] for e in mine) / len(mine):.3f}" for m in head),
      ]
      for method, mine in found.items()
    ),
  ]


def _count(rs: list[Record]) -> str:
  """Returns of how many categories and seeds lines are."""
  seeds: dict[str, set[int]] = {}
  for run in (r["run"] for r in rs):
    seeds.setdefault(run["categories"][0], set()).add(run["seed"])
  return f"{len(seeds)} x {' or '.join(map(str, sorted({len(each) for each in seeds.values()})))}"


def _of_categories(each: Iterable[list[Record]], metric: str) -> str:
  """Returns the mean over categories of means over their lines."""
  means = [
    sum(found) / len(found)
    for rs in each
    if (found := [row[metric] for r in rs for row in r["rows"] if metric in row])
  ]
  return f"{sum(means) / len(means):.3f}" if means else ""


def _mean(rs: list[Record], metric: str) -> str:
  return _of_categories([rs], metric)


def setting(rs: list[Record]) -> tables.Table:
  """Returns the table that a command prints of a setting, without what it took on our machine."""
  table = _summary(rs)[0]
  return _columns(table, [head for head in table[0] if head not in ("s", "GB", "MB")])


def _summary(rs: list[Record]) -> list[tables.Table]:
  """Returns the tables that a command prints, methods as their files call them."""

  def named(variant: str) -> str:
    method, bracket, values = variant.partition(" (")
    return names.named(method) + bracket + values

  return [
    [table[0], *([named(row[0]), *row[1:]] for row in table[1:])] for _, table in summary.of(rs)
  ]


def _columns(table: tables.Table, heads: Iterable[str]) -> tables.Table:
  kept = [table[0].index(head) for head in heads]
  return [[row[k] for k in kept] for row in table]


def continual(dataset: str, categories: int) -> tables.Table:
  """Returns what is left of so many categories after the last, what was forgotten, and MB read."""
  runs = _every("continual", dataset)
  rs = [r for r in runs if len(r["run"]["categories"]) == categories]
  shown = ("I-AUROC", "P-AP", "PRO")
  return _columns(_summary(rs)[0], ["method", *(h for m in shown for h in (m, f"FM {m}")), "MB"])


def fully_supervised() -> tables.Table:
  """Returns the methods that were also told one kind of defect alone."""
  found = lines("fully_supervised", "synthetic").values()
  hard = [rs for rs in found if any(r["run"]["setting_kw"]["kinds"] for r in rs)]
  variants: dict[tuple[str, str], list[Record]] = {}
  for r in (r for rs in hard for r in rs):
    run = r["run"]
    key = names.named(run["method"]), str(run["setting_kw"]["kinds"])
    variants.setdefault(key, []).append(r)
  shown = ("I-AUROC", "I-AP", "P-AUROC", "P-AP", "PRO", "seen", "unseen")
  head = ["method", "kinds", "categories x seeds", *shown, "structural: P-AP"]
  every = _columns(
    setting([r for rs in variants.values() for r in rs]), ["method", "kinds", *shown]
  )
  body = []
  for method, kinds, *values in every[1:]:
    rs = variants[method, kinds]
    part = [r for r in rs if r["run"]["categories"][0] in _STRUCTURAL]
    body.append([method, kinds, _count(rs), *values, _mean(part, "pixel_ap")])
  return [head, *body]


def few_shot(dataset: str) -> tables.Table:
  """Returns image AUROC by the number of images, a line for each method without and with views.

  Methods that were never given but one image are those of the unified table.
  """
  runs = [(r, r["run"]) for r in _every("few_shot", dataset)]
  least = [run["method_kw"] for _, run in runs if run["setting_kw"]["shots"] == 1]
  table = crossed([r for r, run in runs if run["method_kw"] in least])
  variants = [head.split() for head in table[0][1:]]
  shots, views = (list(dict.fromkeys(variant[k] for variant in variants)) for k in (0, 1))
  kept = {view: [k for k, head in enumerate(table[0]) if head.endswith(view)] for view in views}
  body = [[row[0], view, *(row[k] for k in kept[view])] for row in table[1:] for view in views]
  return [["method", "views", *shots], *body]


def unified() -> tables.Table:
  """Returns "image AUROC / pixel AP" of each method in each setting of the quick unified table."""
  columns: dict[str, tuple[str, dict[str, Any]]] = {
    "unsupervised": ("unsupervised", {}),
    "noisy, 0.15": ("noisy", {"ratio": 0.15}),
    "8 images": ("few_shot", {"shots": 8, "view": "none"}),
    "10 told": ("fully_supervised", {"anomalies": 10, "kinds": 0}),
    "one after the other": ("continual", {}),
  }
  found: dict[str, dict[str, list[Record]]] = {name: {} for name in plugins.names("methods")}
  for head, (setting, kw) in columns.items():
    for method, rs in lines(setting, "synthetic").items():
      found[method][head] = [
        r
        for r in (_pairs(rs) if setting == "continual" else quick(rs))
        if kw.items() <= r["run"]["setting_kw"].items()
        and r["run"]["method_kw"].get("reweight", 1) == 1
      ]

  def cell(rs: list[Record]) -> str:
    return " / ".join(filter(None, (_last(rs, m) for m in ("image_auroc", "pixel_ap"))))

  body = [
    [names.named(method), *(cell(of.get(head, [])) for head in columns)]
    for method, of in found.items()
    if any(of.values())
  ]
  return [["", *columns], *body]


def _pairs(rs: list[Record]) -> list[Record]:
  return [r for r in rs if r["run"]["categories"] == ["bottle", "woven"] and not r["run"]["seed"]]


def _last(rs: list[Record], metric: str) -> str:
  """Returns the mean of a metric after the last task of each run."""
  ends = [(row, max(row["learnt"] for row in r["rows"])) for r in rs for row in r["rows"]]
  values = [row[metric] for row, last in ends if row["learnt"] == last and metric in row]
  return f"{sum(values) / len(values):.3f}" if values else ""


def crossed(rs: list[Record]) -> tables.Table:
  """Returns image AUROC of each method and variant of a setting."""
  return _summary(rs)[1]


def quick(rs: list[Record]) -> list[Record]:
  """Returns the lines that a quick table of the drawn data set has."""
  runs = [(r, r["run"]) for r in rs]
  return [r for r, run in runs if run["seed"] == 0 and run["categories"] in (["bottle"], ["woven"])]


def noisy() -> tables.Table:
  """Returns image AUROC of each method at each ratio; PatchCore as it is.

  Methods that met but one ratio are those of the unified table.
  """
  runs = [(r, r["run"]) for r in _every("noisy", "synthetic")]
  several = {run["method"] for _, run in runs if run["setting_kw"]["ratio"] == 0.1}
  kept = [
    r for r, run in runs if run["method"] in several and run["method_kw"].get("reweight", 1) == 1
  ]
  counts = {
    names.named(method): _count([r for r in kept if r["run"]["method"] == method])
    for method in several
  }
  head, *body = crossed(kept)
  return [
    [head[0], "categories x seeds", *head[1:]],
    *([row[0], counts[row[0]], *row[1:]] for row in body),
  ]


def reweighting() -> tables.Table:
  """Returns image AUROC of PatchCore by neighbours, on all categories of the drawn data set."""
  return crossed(lines("noisy", "synthetic")["patchcore"])


def _every(name: str, dataset: str) -> list[Record]:
  return [r for rs in lines(name, dataset).values() for r in rs]


TABLES: dict[str, Callable[[], tables.Table]] = {
  "mtd": lambda: beside_the_paper("mtd"),
  "drawn": drawn,
  "logical": lambda: logical("synthetic", "wrong assembly"),
  "variants": lambda: logical("variants", "mismatch"),
  "continual": lambda: continual("synthetic", 6),
  "continual_mixed": lambda: continual("synthetic+mtd", 7),
  "few_shot": lambda: few_shot("synthetic"),
  "noisy_mtd": lambda: setting(_every("noisy", "mtd")),
  "fully_supervised_mtd": lambda: setting(_every("fully_supervised", "mtd")),
  "few_shot_mtd": lambda: few_shot("mtd"),
  "noisy": noisy,
  "reweighting": reweighting,
  "fully_supervised": fully_supervised,
  "unified": unified,
}


def written(text: str) -> str:
  """Returns a README with its tables made anew."""

  def one(match: re.Match[str]) -> str:
    table = tables.as_markdown(TABLES[match[1]]())
    return f"<!-- table: {match[1]} -->\n{table}\n<!-- end -->"

  return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.DOTALL)


if __name__ == "__main__":
  readme = ROOT / "README.md"
  readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
