"""How many images each category should have, and a table of where the found ones differ.

A part is a split ("test"), a kind in it ("train/good"), or all its defects ("test/defective").
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

LOG = logging.getLogger("imiad_jax.datasets.common")

Row = tuple[str, str, str]  # category, split, kind of one image
Counts = Mapping[str, Mapping[str, int]]  # category -> part -> images


class Difference(NamedTuple):
  """A part of a category that has other than its official number of images."""

  category: str
  part: str
  expected: int
  found: int


def usual(train: int, good: int, defective: int) -> dict[str, int]:
  """Returns the parts of a category: good images to learn, good and defective ones to test."""
  return {"train/good": train, "test/good": good, "test/defective": defective}


def differences(expected: Counts, rows: Iterable[Row]) -> list[Difference]:
  """Returns every difference, categories that are absent altogether included."""
  found: Counter[tuple[str, str]] = Counter()
  for category, split, kind in rows:
    parts = {split, f"{split}/{kind}"} | ({f"{split}/defective"} if kind != "good" else set())
    found.update((category, part) for part in parts)
  pairs = ((category, part, n) for category, parts in expected.items() for part, n in parts.items())
  every = (Difference(*pair, found[pair[0], pair[1]]) for pair in pairs)
  return [d for d in every if d.expected != d.found]


def described(expected: Counts, rows: Iterable[Row]) -> str:
  """Returns a table of the differences, and the categories that are absent; "" for none."""
  rows = list(rows)
  present = {category for category, _, _ in rows}
  absent = [category for category in expected if category not in present]
  odd = [d for d in differences(expected, rows) if d.category in present]
  lines = table([Difference._fields, *odd]) if odd else []
  if absent:
    lines.append(f"absent: {', '.join(absent)}")
  return "\n".join(lines)


def table(rows: Iterable[Iterable[object]]) -> list[str]:
  """Returns one line a row, its columns aligned."""
  cells = [[str(c) for c in row] for row in rows]
  widths = [max(len(c) for c in column) for column in zip(*cells, strict=True)]
  return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
