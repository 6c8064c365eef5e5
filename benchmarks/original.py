"""Both halves of a script that trains authors' code on our data: one writes the data, one reads it.

They are two commands, as what the authors need is installed in an environment of its own.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def pictures(category: str, size: int) -> Iterator[tuple[str, Any]]:
  """Gives "train" and "test" with the images of a category, and where their defects are.

  It is one of the drawn data set or, as "mtd:<folder>", the only one of another.
  """
  from imiad_jax import cache, data

  dataset, _, folder = category.partition(":") if ":" in category else ("synthetic", "", None)
  index, source = data.open(dataset, folder, cache.folder("prepared"))
  chosen = True if folder else index.category == category
  for split in ("train", "test"):
    rows = np.flatnonzero(chosen & (index.split == split))
    yield split, data.load(index, source, rows, size)


def auroc(score: np.ndarray, maps: np.ndarray, region: np.ndarray) -> str:
  """Returns what to print of scores [n] and maps [n,h,w] of images with defects [n,h,w]."""
  from sklearn.metrics import roc_auc_score

  image = roc_auc_score(region.any((1, 2)), score)
  pixel = roc_auc_score(region.ravel(), maps.ravel())
  return f"image AUROC {image:.3f}, pixel AUROC {pixel:.3f}"


def run(title: str, export: Callable[[str], Arrays], learn: Callable[[Arrays], None]) -> None:
  """Writes what `export` gives of a category, or with --original lets `learn` have it."""
  parser = argparse.ArgumentParser(description=title)
  parser.add_argument("--data", required=True, help="the .npz that is written, or read")
  parser.add_argument("--category", default="bottle", help="a drawn one, or mtd:<folder>")
  parser.add_argument("--original", help="the folder of the authors' code")
  given = parser.parse_args()
  if given.original:
    sys.path.insert(0, given.original)
    learn(dict(np.load(given.data)))
  else:
    np.savez(given.data, **export(given.category))
