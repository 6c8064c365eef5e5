"""All that is measured of the scores of one tested category."""

from typing import Any

import jax
import numpy as np

from imiad_jax import features, metrics, parallel
from imiad_jax.types import Scores

Measured = dict[str, Any]  # name -> number; "kinds" -> {kind: {name: number}}
_CHUNK = 16  # maps resized at once


def measure(scores: Scores, rows: np.ndarray, store: features.Store, size: int) -> Measured:
  """Returns image_*, and pixel_* and spro@* where the method localises and there are masks.

  Args:
    scores: NumPy arrays, one for each row.
    rows: [m] of the store's index.
    store: knows labels, kinds and masks of the rows.
    size: of the maps.
  """
  index = store.index
  image, pixel = np.asarray(scores.image), scores.pixel
  out = images(image, index.label[rows].astype(np.int32), index.kind[rows])
  if pixel is not None:
    pixel = np.asarray(pixel)
    out |= pixels(pixel, index.label[rows], store.pixels(rows, size).region)
    kept = store.defects(rows)
    if kept:
      out |= _saturated(pixel, *kept, index.kind[rows])
  return out


def images(score: np.ndarray, label: np.ndarray, kind: np.ndarray) -> Measured:
  """Returns image_auroc and _ap with 95 % intervals, _f1max with its threshold, and by kind."""
  n, size = len(label), parallel.bucket(len(label))
  valid = np.arange(size) < n
  score = parallel.pad(score, size)
  out: Measured = dict(metrics.binary(score, parallel.pad(label, size), valid, f1=True))
  for name, (low, high) in metrics.intervals(score[:n], label, valid[:n]).items():
    out |= {f"{name}_low": low, f"{name}_high": high}
  out = {f"image_{k}": v for k, v in out.items()}
  kinds = metrics.per_kind(score, [*map(str, kind), *[""] * (size - n)], valid)
  return out | ({"kinds": kinds} if kinds else {})


def pixels(score: np.ndarray, label: np.ndarray, region: np.ndarray) -> Measured:
  """Returns pixel_auroc, _ap, _pro and _f1max with its threshold.

  An anomalous image without a region in its mask says nothing about its pixels: it is left out.
  """
  n, size = len(label), parallel.bucket(len(label))
  valid = np.arange(size) < n
  valid[:n] &= (label == 0) | region.any(axis=(1, 2))
  found = metrics.pixel(parallel.pad(score, size), parallel.pad(region, size), valid, f1=True)
  return {f"pixel_{k}": v for k, v in found.items()}


def _saturated(
  score: np.ndarray, defects: metrics.Defects, shape: tuple[int, int], kind: np.ndarray
) -> Measured:
  """Returns spro@*: maps are resized to the original resolution, where sPRO is defined."""
  full = np.empty((len(score), *shape), np.float32)
  for first in range(0, len(score), _CHUNK):
    part = score[first : first + _CHUNK]
    full[first : first + _CHUNK] = jax.image.resize(part, (len(part), *shape), "bilinear")
  return dict(metrics.loco(full, defects, kind, np.ones(len(full), bool)))
