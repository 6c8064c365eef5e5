"""Continual: task after task in the order given, every category so far tested after each.

One pass, one model; nothing tells the model which task a test image belongs to. Performance is
the mean over categories after the last task, forgetting the best earlier result minus that (IM-IAD,
arXiv 2301.13359, Table IV).
"""

import numpy as np

from imiad_jax.errors import UserError
from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"


def runs(categories: tuple[str, ...], multi_class: bool) -> list[tuple[str, ...]]:
  """Returns the categories of each run: one run meets them all, in order."""
  del multi_class  # it always is
  return [categories]


def tasks(
  index: Index, categories: tuple[str, ...], seed: int, sizes: tuple[int, ...] = ()
) -> list[Task]:
  """Returns the tasks in the order they are learnt.

  `sizes` groups the categories into tasks, as (10, 5) or (3, 3, 3, 3, 3); () gives each its own.

  Raises:
    UserError: sizes that do not add up to the number of categories.
  """
  del seed  # nothing is drawn
  sizes = tuple(sizes) or (1,) * len(categories)
  if min(sizes) < 1 or sum(sizes) != len(categories):
    raise UserError(
      f"continual got tasks of {sizes} categories, but there are {len(categories)} categories: "
      f"{', '.join(categories)}."
    )
  stops = np.cumsum(sizes)
  parts = [common.normal(index, c) for c in categories]
  return [common.merge(parts[b - n : b]) for n, b in zip(sizes, stops, strict=True)]
