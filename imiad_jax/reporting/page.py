"""The report as one HTML file that needs nothing else: no network, no other file."""

import pathlib
import re
from collections.abc import Sequence
from importlib import resources

import jinja2
import markupsafe

from imiad_jax import evidence, summary, tables
from imiad_jax.records import Record
from imiad_jax.reporting import charts, comparison, exhibits, figures, findings, lines, runs
from imiad_jax.types import Run

_PARTS = [
  ("findings", "Findings"),
  ("tables", "Tables"),
  ("all-settings", "Settings"),
  ("figures", "Figures"),
  ("gallery", "Gallery"),
  ("runs", "Runs"),
]
_UNIFIED = "python -m imiad_jax.main --config=configs/table_unified.py:quick"
_LACKING = {
  "findings": f"No finding can be judged from these lines. {_UNIFIED} makes some of each setting.",
  "tables": f"No line is of a setting of the paper. {_UNIFIED} makes some of each.",
  "summary": f"No run gave a number. {_UNIFIED} makes runs that do.",
  "gallery": "No run kept pictures: these lines were made before runs did. The same command with "
  "another --config.results keeps them beside its lines.",
}


def render(records: list[Record], results: str) -> str:
  """Returns the page of all records; their evidence is looked for below `results`."""

  def file(r: Record) -> pathlib.Path:
    return evidence.path(results, Run(**r["run"]), r["id"])

  def read(r: Record) -> list[evidence.Test]:
    return evidence.read(file(r))

  present = lines.present(records)
  old = sum(bool(r.get("rows")) for r in records) - len(present)
  found = jinja2.Environment(
    loader=jinja2.PackageLoader("imiad_jax.reporting"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  found.filters |= {"grouped": grouped, "coded": coded}
  return found.get_template("page.html").render(
    style=markupsafe.Markup(_file("style.css")),
    script=markupsafe.Markup(_file("script.js")),
    opening=_opening(records),
    old=old,
    parts=_PARTS,
    findings=findings.find(records),
    tables=comparison.tables(records),
    summary=summary.of(present),
    figures=figures.all(records),
    lacking_figures=figures.lacking(records),
    exhibits=exhibits.exhibits([r for r in present if file(r).exists()], read),
    runs=[runs.section(r, read(r)) for r in records],
    run_table=_run_table(records),
    links=[f"run-{r['id']}" for r in records],
    lacking=_LACKING,
    width=charts.WIDTH,
    height=charts.HEIGHT,
  )


def grouped(rows: Sequence[comparison.Row]) -> list[list[comparison.Row]]:
  """Returns rows in groups that belong together: each row of ours with those below it."""
  out: list[list[comparison.Row]] = []
  for row in rows:
    if row.kind == "ours" or not out or out[-1][0].label != row.label:
      out.append([])
    out[-1].append(row)
  return out


def coded(text: str) -> markupsafe.Markup:
  """Returns a sentence as HTML, with the commands in it marked as code."""
  command = r"python -m imiad_jax\.main(?: --\S*\w)+"
  return markupsafe.Markup(re.sub(command, r"<code>\g<0></code>", str(markupsafe.escape(text))))


def _file(name: str) -> str:
  return (resources.files("imiad_jax.reporting") / "templates" / name).read_text(encoding="utf-8")


def _opening(records: list[Record]) -> str:
  failed = sum("error" in r for r in records)
  counts = [
    (len({r["run"][k] for r in records}), what)
    for k, what in [("method", "method"), ("setting", "setting"), ("dataset", "data set")]
  ]
  said = ", ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counts)
  times = sorted(r["time"] for r in records if "time" in r)
  when = f" The lines were written from {times[0]} to {times[-1]}." if times else ""
  return f"{said}; {failed or 'none'} of the runs failed.{when}"


def _run_table(records: list[Record]) -> tables.Table:
  metrics = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_pro")
  head = ["method", "setting", "data set", "categories", "seed"]
  table = [[*head, *metrics, "seconds"]]
  for r in records:
    run, rows = r["run"], r.get("rows", [])
    row = [run["method"], run["setting"], run["dataset"], "+".join(run["categories"])]
    last = [x for x in rows if x["learnt"] == rows[-1]["learnt"]]
    for m in metrics:
      values = [x[m] for x in last if m in x]
      row.append(f"{sum(values) / len(values):.3f}" if values else "-")
    row.insert(4, str(run["seed"]))
    table.append([*row, f"{r.get('seconds', 0):.1f}"])
  return table
