"""What a run keeps beside its line: the scores of its last tests, curves, a few small pictures.

A file is <results>/<setting>/<data set>/evidence/<method>-<id>.npz. It is made for the report, and
small: the pictures are 96 pixels wide, the first of each kind of a category, which are the same for
every method that is tested on the same rows, and the worst misses of the run.
"""

import io
import os
import pathlib
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from imiad_jax import engine, features, records
from imiad_jax.errors import UserError
from imiad_jax.metrics import marks
from imiad_jax.types import Run

SIDE = 96  # of a picture; in JPEG, parts of 16 pixels do not touch each other
_EACH = 2  # pictures of a kind
_IN_ALL = 24  # of these in a run, of which each category has as many
_LEAST = 4  # of these in a category
MISSES = 2  # pictures of each class's worst misses
_POINTS = 100  # of a curve by its false positive rate, and as many by its recall


class Test(NamedTuple):
  """What is kept of one category's test."""

  category: str
  name: np.ndarray  # [n] str
  kind: np.ndarray  # [n] str
  label: np.ndarray  # [n] int
  score: np.ndarray  # [n] float32
  curve: np.ndarray  # [k,4] of all pixels, see `curve`; [0,4] where the method does not localise
  shown: np.ndarray  # [m] int: which of the n have pictures
  image: np.ndarray  # [m,s,s,3] uint8
  mask: np.ndarray  # [m,s,s] bool
  map: np.ndarray  # [m,s,s] float; [0,s,s] where the method does not localise


def path(root: str, run: Run, identity: str) -> pathlib.Path:
  """Returns the file of a run's evidence."""
  return records.path(root, run).parent / "evidence" / f"{run.method}-{identity}.npz"


def of(outcome: engine.Outcome, store: features.Store, run: Run) -> Test:
  """Returns what to keep of an outcome of a run."""
  index, rows = store.index, outcome.rows
  label, kind = index.label[rows], index.kind[rows]
  score, maps = np.asarray(outcome.scores.image), outcome.scores.pixel
  room = max(_IN_ALL // len(run.categories), _LEAST)
  picked = [*first_of_each(kind.tolist())[:room], *worst(score, label, MISSES)]
  shown = np.array([*dict.fromkeys(picked)], int)
  pixels = store.pixels(rows, run.method_kw["size"])
  points, small = np.zeros((0, 4)), np.zeros((0, SIDE, SIDE))
  if maps is not None:
    valid = (label == 0) | (pixels.region > 0).any(axis=(1, 2))
    points = _curve_of_pixels(np.asarray(maps), pixels.region, valid)
    small = np.stack([_resized(np.asarray(maps[k], np.float32)) for k in shown])
  image = np.stack([_resized(pixels.image[k]) for k in shown])
  mask = np.stack([_resized((pixels.region[k] > 0).astype(np.float32)) > 0.25 for k in shown])
  of_rows = (index.name[rows], kind, label, score)
  return Test(outcome.category, *of_rows, points, shown, image, mask, small)


def first_of_each(kinds: Sequence[str]) -> Integer[np.ndarray, " m"]:
  """Picks the first two places of each kind: first the first ones, that of "good" ahead."""
  places: dict[str, list[int]] = defaultdict(list)
  for place, kind in enumerate(kinds):
    places[kind].append(place)
  ordered = sorted(places, key=lambda kind: (kind != "good", kind))
  picked = [places[kind][k : k + 1] for k in range(_EACH) for kind in ordered]
  return np.array([place for one in picked for place in one], int)


def worst(
  score: Float[np.ndarray, " n"], label: Integer[np.ndarray, " n"], count: int
) -> Integer[np.ndarray, " m"]:
  """Picks the anomalous places with the lowest scores and the normal ones with the highest."""
  order = np.argsort(score)
  low, high = order[label[order] == 1], order[::-1][label[order[::-1]] == 0]
  return np.concatenate([low[:count], high[:count]])


def curve(
  normal: Float[np.ndarray, " n"], anomalous: Float[np.ndarray, " p"], weight: np.ndarray
) -> Float[np.ndarray, "k 4"]:
  """Returns points of the curves of ROC, PR and PRO, from the highest threshold down, at most 200.

  Each has the false positive rate, the recall, the precision, and the overlap (the weight, of 1 in
  all, of what is detected), all in [0,1] and exact: of the distinct scores, some are thresholds,
  and a score detects from its threshold on. They are dense where the false positive rate is low.

  Args:
    normal: scores.
    anomalous: scores.
    weight: [p], see `marks.weights`.
  """
  if not len(normal) or not len(anomalous):
    return np.zeros((0, 4))
  normal, order = np.sort(normal), np.argsort(anomalous)
  anomalous, weight = anomalous[order], weight[order]
  share = np.linspace(0, 1, _POINTS)
  picked = [
    normal[((1 - share**2) * (len(normal) - 1)).round().astype(int)],
    anomalous[((1 - share) * (len(anomalous) - 1)).round().astype(int)],
  ]
  threshold = np.unique(np.concatenate(picked))[::-1]
  below = np.searchsorted(anomalous, threshold)
  false = len(normal) - np.searchsorted(normal, threshold)
  true = len(anomalous) - below
  overlap = 1 - np.concatenate([[0], np.cumsum(weight / weight.sum())])[below]
  return np.stack([false / len(normal), true / len(anomalous), true / (true + false), overlap], 1)


def _curve_of_pixels(
  score: Float[np.ndarray, "n h w"], region: Integer[np.ndarray, "n h w"], valid: np.ndarray
) -> Float[np.ndarray, "k 4"]:
  marked = marks.of_regions(region, valid)
  flat = score.reshape(-1)
  normal = np.repeat(valid, score[0].size)
  normal[marked.place] = False
  return curve(flat[normal], flat[marked.place], marked.weight)


def write(file: pathlib.Path, tests: Sequence[Test]) -> None:
  """Writes the tests of a run, whole or not at all.

  The maps of a run share one scale, from the 1st percentile of its pictures' pixels to the highest.
  """
  maps = np.concatenate([test.map.ravel() for test in tests])
  low, high = (np.percentile(maps, 1), maps.max()) if maps.size else (0, 1)
  arrays: dict[str, np.ndarray] = {"categories": np.array([test.category for test in tests])}
  for k, test in enumerate(tests):
    scaled = np.clip((test.map - low) / max(high - low, 1e-12), 0, 1)
    kept = {
      "name": test.name,
      "kind": test.kind,
      "label": test.label.astype(np.int8),
      "score": test.score.astype(np.float32),
      "curve": test.curve.astype(np.float32),
      "shown": test.shown,
      "image": _jpeg(test.image),
      "mask": np.packbits(test.mask),
      "map": _jpeg((255 * scaled).round().astype(np.uint8)),
    }
    arrays |= {f"{k}/{name}": array for name, array in kept.items()}
  file.parent.mkdir(parents=True, exist_ok=True)
  part = file.with_suffix(f".{os.getpid()}.part")
  try:
    with open(part, "wb") as f:
      np.savez_compressed(f, allow_pickle=False, **arrays)
    part.replace(file)
  finally:
    part.unlink(missing_ok=True)


def read(file: pathlib.Path) -> list[Test]:
  """Returns the tests of a run, its maps between 0 and 1; none where the file is not there.

  Raises:
    UserError: the file is broken.
  """
  if not file.exists():
    return []
  try:
    with np.load(file, allow_pickle=False) as arrays:
      return [_read(arrays, k, str(name)) for k, name in enumerate(arrays["categories"])]
  except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as e:
    raise UserError(f'"{file}" is no evidence of a run: {e}. Delete it; its line stays.') from e


def _read(arrays: np.lib.npyio.NpzFile, k: int, category: str) -> Test:
  kept = {name: arrays[f"{k}/{name}"] for name in Test._fields if name != "category"}
  shape = (len(kept["shown"]), SIDE, SIDE)
  kept["image"] = _of_jpeg(kept["image"]).reshape(*shape, 3)
  kept["mask"] = np.unpackbits(kept["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
  kept["map"] = _of_jpeg(kept["map"]).reshape(-1, SIDE, SIDE) / np.float32(255)
  return Test(category, **kept)


def _resized(picture: np.ndarray) -> np.ndarray:
  """Returns a picture, uint8 [h,w,3] or float32 [h,w], at SIDE x SIDE."""
  small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
  return np.asarray(small)


def _jpeg(pictures: UInt8[np.ndarray, "m s s *c"]) -> UInt8[np.ndarray, " bytes"]:
  """Returns pictures, one below the other, as a JPEG file; nothing of none."""
  file = io.BytesIO()
  if len(pictures):
    strip = Image.fromarray(pictures.reshape(-1, *pictures.shape[2:]))
    strip.save(file, format="JPEG", quality=85)
  return np.frombuffer(file.getvalue(), np.uint8)


def _of_jpeg(data: UInt8[np.ndarray, " bytes"]) -> np.ndarray:
  if not len(data):
    return data
  with Image.open(io.BytesIO(data.tobytes())) as strip:
    return np.asarray(strip)
