"""The paper's tables from our lines, each row of ours beside the published one."""

from typing import Literal, NamedTuple

from imiad_jax.records import Record


class Cell(NamedTuple):
  """What one place of a table says."""

  text: str  # "" where there is nothing
  mark: Literal["", "best", "second", "doubt"] = ""  # "doubt": a published number known to be wrong
  note: str = ""  # such as the interval of the mean, or what is wrong with the number


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


def tables(records: list[Record]) -> list[Table]:
  """Returns a table for each table of the paper and data set that there are lines of."""
  del records
  return []
