"""Confidence intervals over images: the bootstrap, all resamples of it from one sort.

Notation: n1 anomalous and n0 normal images. A resample draws n1 of the anomalous and n0 of the
normal ones with replacement (Efron 1979), each class on its own. So no resample lacks a class, and
the share of anomalous images, on which average precision depends, stays that of the test set, which
is a choice of the benchmark and not chance. Image i was drawn c_i times; with counts in place of
images the values are those of `exact`:

  tp_i, ge_i   sum of c_j over anomalous, normal images with s_j >= s_i; gt_i with s_j > s_i
  auroc        sum over anomalous i of c_i (n0 - (gt_i + ge_i) / 2) / (n1 n0)
  ap           sum over anomalous i of c_i tp_i / (tp_i + ge_i) / n1
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Integer

from imiad_jax.metrics import exact

CHUNK = 50  # resamples at once


def intervals(
  score: Float[exact.AnyArray, " n"],
  label: Integer[exact.AnyArray, " n"],
  valid: Bool[exact.AnyArray, " n"],
  seed: int = 0,
  resamples: int = 1000,
  level: float = 0.95,
) -> dict[str, tuple[float, float]]:
  """Returns (low, high) of the image metrics "auroc" and "ap": percentiles of resamples, in [0,1].

  Args:
    score: [n], compared as float32.
    label: [n] 1 anomalous, 0 normal.
    valid: [n] rows with False change nothing, whatever they hold.
    seed: the same seed and rows give the same intervals.
    resamples: how many; 1,000 leave the ends uncertain by a few percent of the width.
    level: the share of resamples between low and high, in (0,1).

  Returns:
    The (1 - level) / 2 and (1 + level) / 2 quantiles over resamples that keep the number of images
    of each class. They say what another draw of test images might have given, not what another
    training run would. Of a class with one image they know no spread, and with few images they are
    too narrow. No key if the valid rows are not of both classes.

  Raises:
    ValueError: a valid row's score is not finite, no resamples, or the level is not in (0,1).
  """
  if resamples < 1 or not 0 < level < 1:
    raise ValueError(f"resamples is {resamples}, level is {level}, but must be >= 1 and in (0,1)")
  chosen = np.asarray(valid)
  values = np.asarray(score)[chosen].astype(np.float32)
  anomalous = np.asarray(label)[chosen] > 0
  if not np.isfinite(values).all():
    raise ValueError(f"{(~np.isfinite(values)).sum()} scores are not finite")
  n, n1 = len(values), int(anomalous.sum())
  if not 0 < n1 < n:
    return {}
  order = np.lexsort((-values, anomalous))  # normal first, from the highest score down
  values, anomalous = values[order], anomalous[order]
  down = np.argsort(-values, kind="stable")
  ranked = -values[down]
  more = exact.bucket(n) - n  # one compilation serves many sizes
  first = np.pad(np.searchsorted(ranked, ranked, "left"), (0, more))
  last = np.pad(np.searchsorted(ranked, ranked, "right"), (0, more))
  down = np.pad(down, (0, more), constant_values=n)
  rows = [x.astype(np.int32) for x in (down, first, last)]
  keys = jax.random.split(jax.random.key(seed), resamples)
  found = _resample(keys, *rows, np.int32(n - n1), np.int32(n1))
  ends = [(1 - level) / 2, (1 + level) / 2]
  low, high = np.quantile(np.asarray(found, np.float64), ends, axis=0)
  return {k: (float(low[i]), float(high[i])) for i, k in enumerate(("auroc", "ap"))}


@jax.jit
def _resample(
  keys: Array,
  down: Int32[Array, " n"],
  first: Int32[Array, " n"],
  last: Int32[Array, " n"],
  n0: Int32[Array, ""],
  n1: Int32[Array, ""],
) -> Float32[Array, "resamples 2"]:
  """Returns AUROC and AP of every resample; `down` is the order of the scores, n is padding."""
  place = jnp.arange(down.size)
  normal = down < n0

  def one(key: Array) -> Float32[Array, "2"]:
    u = jax.random.randint(key, place.shape, 0, jnp.where(place < n0, n0, n1))
    drawn = jnp.where(place < n0, u, n0 + u)
    drawn = jnp.where(place < n0 + n1, drawn, down.size)
    count = jnp.zeros(down.size, jnp.int32).at[drawn].add(1, mode="drop")
    count = count.at[down].get(mode="fill", fill_value=0)
    fp = _before(jnp.where(normal, count, 0))
    tp = _before(jnp.where(normal, 0, count))[last].astype(jnp.float32)
    gt, ge = fp[first], fp[last]
    weight = jnp.where(normal, 0, count) / n1
    auroc = jnp.sum(weight * (1 - (gt + ge) / 2 / n0))
    return jnp.stack([auroc, jnp.sum(weight * tp / jnp.maximum(tp + ge, 1))])

  return jax.lax.map(one, keys, batch_size=CHUNK)


def _before(count: Int32[Array, " n"]) -> Int32[Array, " n+1"]:
  return jnp.pad(jnp.cumsum(count), (1, 0))
