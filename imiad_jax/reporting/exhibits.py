"""The gallery: of each category the pictures that runs kept, and every method's map of them."""

import base64
import io
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imiad_jax import evidence, gallery
from imiad_jax.records import Record
from imiad_jax.reporting import runs


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


def exhibits(kept: list[tuple[Record, list[evidence.Test]]]) -> list[Exhibit]:
  """Returns an exhibit for each category and setting: of each method its first run."""
  found: dict[Key, dict[str, tuple[Record, evidence.Test]]] = defaultdict(dict)
  for record, tests in kept:
    run = record["run"]
    for test in tests:
      key = (run["dataset"], test.category, runs.setting(run))
      found[key].setdefault(run["method"], (record, test))
  return [_exhibit(key, list(found[key].values())) for key in sorted(found)]


def _exhibit(key: Key, shown: list[tuple[Record, evidence.Test]]) -> Exhibit:
  dataset, category, setting = key
  lines: dict[str, Line] = {}
  wrong: dict[str, list[float]] = defaultdict(list)
  for column, (record, test) in enumerate(shown):
    threshold = runs.threshold(record, category)
    for k, place in enumerate(test.shown):
      name = str(test.name[place])
      if name not in lines:
        truth = gallery.outline(test.image[k] // 2, test.mask[k])
        truth[test.mask[k]] = test.image[k][test.mask[k]]
        nothing = [Picture("", "", False)] * len(shown)
        uris = [uri(test.image[k]), uri(truth)]
        lines[name] = Line(name, str(test.kind[place]), *uris, nothing)
      share = _wrong_side(test, int(place))
      wrong[name].append(share)
      score, anomalous = test.score[place], test.label[place] == 1
      said = f"{score:.3g}; " + ("above" if anomalous else "below")
      said += f" {1 - share:.0%} of the {'good' if anomalous else 'anomalous'} ones"
      missed = threshold is not None and (score >= np.float32(threshold)) != anomalous
      lines[name].pictures[column] = Picture(_map(test, k), said, bool(missed))
  order = sorted(lines, key=lambda name: -np.mean(wrong[name]))
  columns = [(record["id"], record["run"]["method"]) for record, _ in shown]
  title = f"{dataset} / {category}, {setting}"
  return Exhibit(title, columns, [lines[name] for name in order])


def _map(test: evidence.Test, k: int) -> str:
  if not len(test.map):
    return ""
  return uri(gallery.outline(gallery.heat(test.map[k], 0.0, 1.0), test.mask[k]))


def _wrong_side(test: evidence.Test, place: int) -> float:
  """Returns the share of the other class that an image is on the wrong side of, ties by half."""
  other = test.score[test.label != test.label[place]]
  if not len(other):
    return 0.0
  sign = 1 if test.label[place] == 1 else -1
  behind = np.sign(sign * (other - test.score[place]))
  return float(np.mean((behind + 1) / 2))


def uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
  """Returns a picture as a data URI."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="WEBP", quality=80)
  return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
