"""Unsupervised: learn the normal images of a category, test on its test split."""

import numpy as np

from imiad_jax.types import Index, Task

VERSION = "1"


def runs(categories: tuple[str, ...]) -> list[tuple[str, ...]]:
  """Returns the categories of each run: one run for every category."""
  return [(category,) for category in categories]


def tasks(index: Index, categories: tuple[str, ...], seed: int) -> list[Task]:
  """Returns one task a category: its whole official train split, told normal, and test split."""
  del seed  # nothing is drawn
  out = []
  for category in categories:
    train, test = index.rows(category, "train"), index.rows(category, "test")
    out.append(Task(category, train, np.zeros(len(train), np.int32), test))
  return out
