"""Means of ours as a table, the paper's numbers below them, best and second marked.

Notation: g a group of entries, which is a row of ours; c a column.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from imiad_jax import published
from imiad_jax.reporting import lines
from imiad_jax.reporting.lines import Entry, Mean

Mark = Literal["", "best", "second", "doubt"]


class Cell(NamedTuple):
  """What one place of a table says."""

  text: str  # "" where there is nothing
  mark: Mark = ""  # "doubt": a published number that is known to be wrong
  note: str = ""  # of how many runs it is, or what is wrong with the number
  interval: str = ""  # of the mean, 95 %, where there are several runs


class Row(NamedTuple):
  """A line of a table."""

  label: str  # a method
  kind: Literal["ours", "paper", "difference"]  # the last is ours minus the paper's
  cells: list[Cell]  # as many as the head has entries after its first


class Table(NamedTuple):
  """A table as data; see writers."""

  title: str
  caption: str
  head: list[str]  # the first entry is of the labels
  rows: list[Row]


class Column(NamedTuple):
  """What a column shows of the entries of a row, and where the paper prints it."""

  head: str
  metric: str  # of "fm_*" less is better, of others more
  setting: str
  kw: dict[str, Any]  # what the setting's parameters must be, among others
  printed: tuple[str, str, str] | None  # setting, detail and metric in published.csv


def make(
  title: str, number: str, dataset: str, groups: dict[str, list[Entry]], columns: list[Column]
) -> list[Table]:
  """Returns the table of groups by columns, without columns that are empty; [] without entries.

  Args:
    title: of the table.
    number: of the paper's table, roman.
    dataset: the paper's numbers are of it.
    groups: label of a row -> entries that its columns choose from.
    columns: of several variants of a method in a group, each shows the best one.
  """
  means = [{g: _mean(es, column) for g, es in groups.items()} for column in columns]
  kept = [(c, ms) for c, ms in zip(columns, means, strict=True) if any(ms.values())]
  if not kept:
    return []
  groups = {g: es for g, es in groups.items() if any(ms[g] for _, ms in kept)}
  printed = _printed(number, dataset)
  ours: dict[str, list[Cell]] = {g: [] for g in groups}
  theirs: dict[str, list[Cell]] = {g: [] for g in groups}
  less: dict[str, list[Cell]] = {g: [] for g in groups}
  partial = False
  for column, ms in kept:
    lower = column.metric.startswith("fm_")
    most = max(m.count[0] for m in ms.values() if m)
    full = {g: round(m.value, 3) for g, m in ms.items() if m and m.count[0] == most}
    partial |= len(full) < sum(m is not None for m in ms.values())
    paper = {g: printed(es[0], g, column) for g, es in groups.items()}
    sure = {g: cell.value for g, cell in paper.items() if cell and not cell.doubt}
    marks, their_marks = _marks(full, lower), _marks(sure, lower)
    for g in groups:
      ours[g].append(_ours(ms[g], most, marks.get(g, "")))
      theirs[g].append(_theirs(paper[g], their_marks.get(g, "")))
      less[g].append(_less(ms[g], paper[g]))
  rows: list[Row] = []
  for g in groups:
    rows.append(Row(g, "ours", ours[g]))
    if any(cell.text for cell in theirs[g]):
      rows += [Row(g, "paper", theirs[g]), Row(g, "difference", less[g])]
  head = ["method", *(column.head for column, _ in kept)]
  return [Table(title, _caption(number, dataset, rows, partial), head, rows)]


def chosen(found: Iterable[Entry], column: Column) -> list[Entry]:
  """Returns the entries that a column shows: of several variants, those of the best one."""
  mine = [
    e
    for e in found
    if e.setting == column.setting and all(e.setting_kw.get(k) == v for k, v in column.kw.items())
  ]
  return lines.best(mine, column.metric, column.metric.startswith("fm_"))


def _mean(found: list[Entry], column: Column) -> Mean | None:
  return lines.mean(chosen(found, column), column.metric)


def _printed(number: str, dataset: str):
  """Returns what finds the paper's cell for an entry, the label of its row, and a column."""
  known = {
    (c.setting, c.detail, c.metric, c.method.lower()): c
    for c in published.cells()
    if (c.table, c.dataset, c.category) == (number, dataset, "average")
  }

  def find(entry: Entry, label: str, column: Column) -> published.Cell | None:
    if column.printed is None:
      return None
    setting, detail, metric = column.printed
    if number == "XII":
      detail += label.rpartition(" ")[2]
    cell = known.get((setting, detail, metric, entry.method))
    if cell is None and number == "VIII":  # PatchCore, told nothing, stands among those told
      return known.get(("unsupervised", "", metric, entry.method))
    return cell

  return find


def _marks(values: dict[str, float], lower: bool) -> dict[str, Mark]:
  """Returns which are best and second; equal ones share a place. None of fewer than two."""
  places = sorted(set(values.values()), reverse=not lower)[:2] if len(values) > 1 else []
  names: tuple[Mark, Mark] = ("best", "second")
  return {g: names[places.index(v)] for g, v in values.items() if v in places}


def _ours(mean: Mean | None, most: int, mark: Mark) -> Cell:
  if mean is None:
    return Cell("")
  text = f"{mean.value:.3f}".replace("-0.000", "0.000")
  text += f" ± {mean.spread:.3f}" if mean.spread is not None else ""
  c, s = mean.count
  note = f"{c} of {most} categories" if c < most else f"{c} categor{'y' if c == 1 else 'ies'}"
  note += f", {s} seed{'s' * (s > 1)}"
  interval = "{:.3f} to {:.3f}".format(*mean.interval) if mean.interval else ""
  interval = interval.replace("-0.000", "0.000")
  note += f", 95 % interval {interval}" if interval else ""
  return Cell(text, mark, note, interval)


def _theirs(cell: published.Cell | None, mark: Mark) -> Cell:
  if cell is None:
    return Cell("")
  return Cell(f"{cell.value:.3f}", "doubt" if cell.doubt else mark, cell.doubt)


def _less(mean: Mean | None, cell: published.Cell | None) -> Cell:
  """Returns ours minus the paper's; none from a number that is known to be wrong."""
  if mean is None or cell is None:
    return Cell("")
  if cell.doubt:
    return Cell("", "", "the paper's number is in doubt")
  return Cell(f"{mean.value - cell.value:+.3f}".replace("-0.000", "+0.000"))


def _caption(number: str, dataset: str, rows: list[Row], partial: bool) -> str:
  said = "Mean over categories and seeds, ± the spread over seeds"
  if any(cell.interval for row in rows for cell in row.cells):
    said += ", with 95 % bootstrap intervals over both"
  if partial:
    said += "; methods that lack categories are not ranked"
  if not any(row.kind == "paper" for row in rows):
    return f"{said}. Table {number} of the paper has no such numbers on {dataset}."
  said += f". Below a method the paper's Table {number}, and ours less the paper's"
  if any(cell.mark == "doubt" for row in rows for cell in row.cells):
    said += "; numbers that are known to be wrong are marked"
  if number == "X":
    said += ". Most of the paper's were scored with the hidden defects among the tested images too"
  if number == "XI":
    said += ". FM counts the last task as 0, as the paper's does"
  return f"{said}."
