"""What settings share: choosing rows by name, and one task out of several categories'."""

import hashlib

import numpy as np
from jaxtyping import Int

from imiad_jax.types import Index, Task

Rows = Int[np.ndarray, " n"]


def ranked(index: Index, rows: Rows, seed: int) -> Rows:
  """Orders rows at random: by the sha256 of the seed and of each row's name.

  The first m are a draw of m without replacement; a smaller draw is part of a larger one. A row's
  place depends on nothing but the seed and the names, so the draw is the same on every machine,
  in whatever order the files were found.
  """

  return np.array(
    sorted(rows.tolist(), key=lambda row: digest(seed, str(index.name[row]))), rows.dtype
  )


def digest(seed: int, name: str) -> bytes:
  """Returns what names are put into a random order by."""
  return hashlib.sha256(f"{seed} {name}".encode()).digest()


def each(categories: tuple[str, ...], multi_class: bool) -> list[tuple[str, ...]]:
  """Returns the categories of each run: one each, or all together for one model of all classes."""
  return [categories] if multi_class else [(category,) for category in categories]


def merge(parts: list[Task]) -> Task:
  """Returns one task that learns several at once and tests each by its own name."""
  return parts[0]._replace(
    name="+".join(p.name for p in parts),
    train=np.concatenate([p.train for p in parts]),
    label=np.concatenate([p.label for p in parts]),
    tests={name: rows for p in parts for name, rows in p.tests.items()},
  )


def normal(index: Index, category: str) -> Task:
  """Returns the task of a category: its official train split, told normal, and its test split."""
  train = index.rows(category, "train")
  tests = {category: index.rows(category, "test")}
  return Task(category, train, np.zeros(len(train), np.int32), tests)


def others(index: Index, categories: tuple[str, ...]) -> Task:
  """Returns the task that a method may learn from before it meets these categories.

  It learns the train splits of all other categories, and tests nothing. The label told of a row is
  the number of its category, counted from 0 in the order of the index.
  """
  rows = np.flatnonzero((index.split == "train") & ~np.isin(index.category, categories))
  _, number = np.unique(index.category[rows], return_inverse=True)
  return Task("others", rows, number.astype(np.int32), {})
