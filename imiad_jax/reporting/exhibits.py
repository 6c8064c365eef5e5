"""The gallery: of each category the pictures that runs kept, and every method's map of them."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from imiad_jax import evidence, tables
from imiad_jax.records import Record
from imiad_jax.reporting import pictures, runs


class Picture(NamedTuple):
  """What one method makes of an image."""

  uri: str  # "" where it has no map of this image
  said: str  # its score, and how many of the other class it is on the wrong side of
  missed: bool  # whether its run's threshold tells it wrong


class Line(NamedTuple):
  """An image with all maps of it."""

  name: str
  kind: str
  image: str  # URIs
  truth: str
  pictures: list[Picture]  # of each column


class Exhibit(NamedTuple):
  """The images of one category in one setting."""

  title: str
  columns: list[tuple[str, str]]  # the id of a run and its method
  lines: list[Line]


Key = tuple[str, str, str]  # data set, category, setting


def exhibits(records: list[Record], read: Callable[[Record], list[evidence.Test]]) -> list[Exhibit]:
  """Returns an exhibit for each category and setting, of each method its first run.

  Those of most methods come first. `read` gives a run's evidence, which is large: each is let go
  before the next exhibit is made.
  """
  found: dict[Key, dict[str, Record]] = defaultdict(dict)
  for record in records:
    run = record["run"]
    for row in record["rows"]:
      key = (run["dataset"], row["task"], tables.setting(run))
      found[key].setdefault(run["method"], record)
  order = sorted(found, key=lambda key: (-len(found[key]), key))
  return [_exhibit(key, [(r, _of(read(r), key[1])) for r in found[key].values()]) for key in order]


def _of(tests: list[evidence.Test], category: str) -> evidence.Test:
  (test,) = (test for test in tests if test.category == category)
  return test


def _exhibit(key: Key, shown: list[tuple[Record, evidence.Test]]) -> Exhibit:
  dataset, category, setting = key
  lines: dict[str, Line] = {}
  wrong: dict[str, list[float]] = defaultdict(list)
  for column, (record, test) in enumerate(shown):
    threshold = runs.threshold(record, category)
    first = set(evidence.first_of_each(test.kind.tolist()).tolist())
    for k, place in enumerate(test.shown):
      if place not in first:
        continue
      name = str(test.name[place])
      if name not in lines:
        nothing = [Picture("", "", False)] * len(shown)
        image, truth = pictures.image(test, k), pictures.truth(test, k)
        lines[name] = Line(name, str(test.kind[place]), image, truth, nothing)
      share = _wrong_side(test, int(place))
      wrong[name].append(share)
      score, anomalous = test.score[place], test.label[place] == 1
      said = f"{score:.4g}; " + ("above" if anomalous else "below")
      said += f" {1 - share:.0%} of the {'good' if anomalous else 'anomalous'} ones"
      missed = threshold is not None and (score >= np.float32(threshold)) != anomalous
      lines[name].pictures[column] = Picture(pictures.heat(test, k), said, bool(missed))
  order = sorted(lines, key=lambda name: -np.mean(wrong[name]))
  columns = [(record["id"], record["run"]["method"]) for record, _ in shown]
  title = f"{dataset} / {category}, {setting}"
  return Exhibit(title, columns, [lines[name] for name in order])


def _wrong_side(test: evidence.Test, place: int) -> float:
  """Returns the share of the other class that an image is on the wrong side of, ties by half."""
  other = test.score[test.label != test.label[place]]
  if not len(other):
    return 0.0
  sign = 1 if test.label[place] == 1 else -1
  behind = np.sign(sign * (other - test.score[place]))
  return float(np.mean((behind + 1) / 2))
