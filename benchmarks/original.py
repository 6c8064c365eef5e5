"""Both halves of a script that trains authors' code on our data: one writes the data, one reads it.

They are two commands, as what the authors need is installed in an environment of its own.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]


def run(title: str, export: Callable[[str], Arrays], learn: Callable[[Arrays], None]) -> None:
  """Writes what `export` gives of a category, or with --original lets `learn` have it."""
  parser = argparse.ArgumentParser(description=title)
  parser.add_argument("--data", required=True, help="the .npz that is written, or read")
  parser.add_argument("--category", default="bottle", help="of the drawn data set")
  parser.add_argument("--original", help="the folder of the authors' code")
  given = parser.parse_args()
  if given.original:
    sys.path.insert(0, given.original)
    learn(dict(np.load(given.data)))
  else:
    np.savez(given.data, **export(given.category))
