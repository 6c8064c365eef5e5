"""The numbers that the paper prints, to stand beside ours.

published.csv has the tables VI to XIII of IM-IAD (Xie et al., arXiv 2301.13359, version 5), read
from the published images of the tables by eye: table, setting, detail of the setting, method as the
paper writes it, data set, category or "average", metric, value, and in `doubt` what is known to be
wrong with a cell.
"""

import csv
import pathlib
from typing import NamedTuple

FILE = pathlib.Path(__file__).with_suffix(".csv")


class Cell(NamedTuple):
  """A number of the paper."""

  table: str  # roman
  setting: str
  detail: str  # key=value, joined by ";"
  method: str
  dataset: str
  category: str
  metric: str
  value: float  # as printed
  doubt: str  # "" where nothing is known against it


def cells() -> list[Cell]:
  """Returns all cells in the order of the tables."""
  with open(FILE, encoding="utf-8", newline="") as f:
    rows = list(csv.DictReader(f))
  return [Cell(**{**row, "value": float(row["value"])}) for row in rows]


def of(setting: str, dataset: str, method: str, detail: str = "") -> dict[str, Cell]:
  """Returns the cells of a method's average on a data set, by metric, each from its first table.

  `method` is the name of our module, which is the paper's in small letters.
  """
  found: dict[str, Cell] = {}
  for cell in cells():
    here = (cell.setting, cell.dataset, cell.method.lower(), cell.detail)
    if here == (setting, dataset, method, detail) and cell.category == "average":
      found.setdefault(cell.metric, cell)
  return found
