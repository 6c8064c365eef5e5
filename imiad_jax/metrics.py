"""Metrics of detection, of localisation and of forgetting: exact, on all devices, from one sort.

Notation: n1 anomalous pixels have scores s_i, n0 pixels are normal. A pixel counts as detected at a
threshold t if its score is >= t, so pixels of one score are detected together. For the anomalous
pixel i

  gt_i, ge_i  normal pixels with a score > s_i, >= s_i
  a_i, b_i    gt_i / n0, ge_i / n0: the false positive rate just before and just after t = s_i
  tp_i        anomalous pixels with a score >= s_i
  w_i         its weight, sum_i w_i = 1: 1/n1 in a ROC curve; 1/(R |r|) in a PRO curve, where it
              lies in region r of |r| pixels, one of R

The curve of the detected weight over the false positive rate f, linear between the points of two
neighbouring distinct thresholds, is sum_i w_i clip((f - a_i) / (b_i - a_i), 0, 1), a step where
a_i = b_i. So the area below it up to f = L is

  sum_i w_i (max(L - b_i, 0) + max(min(b_i, L) - a_i, 0)^2 / (2 (b_i - a_i)))

without its second term where a_i = b_i. AUROC is this area with L = 1 (Fawcett 2006), PRO is the
area up to its limit divided by the limit (Bergmann et al. 2021, MVTec AD, IJCV 129, section 5.2),
and the step-wise average precision, as in scikit-learn, is sum_i tp_i / (tp_i + ge_i) / n1.
Only gt and ge need a sort, that of the normal scores; each device sorts its own, looks all
anomalous scores up among them, and the counts add up. They are integers, so the results do not
depend on the number of devices.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Float64, Int32, Int64, Integer

from imiad_jax import parallel

VERSION = "1"

AnyArray = jax.Array | np.ndarray  # on one device, on many, or on the host
LOWEST = np.iinfo(np.int32).min  # a key below that of every score


def binary(
  score: Float[AnyArray, " n"],
  label: Integer[AnyArray, " n"],
  valid: Bool[AnyArray, " n"],
) -> dict[str, float]:
  """Returns "auroc" and "ap" of images, both in [0,1]; higher scores should be more anomalous.

  Args:
    score: [n], compared as float32.
    label: [n] 1 anomalous, 0 normal.
    valid: [n] rows with False change nothing, whatever they hold.

  Returns:
    Area under the ROC curve and step-wise average precision (IM-IAD, table IV; the values of
    scikit-learn); no key if the valid rows are not of both classes.

  Raises:
    ValueError: a valid row's score is not finite.
  """
  more = _bucket(len(score)) - len(score)
  score, label, valid = (_pad(x, more) for x in (score, label, valid))
  values = _evaluate(score[:, None, None], label[:, None, None], valid, 1.0)
  return {k: values[k] for k in ("auroc", "ap") if k in values}


def pixel(
  score: Float[AnyArray, "n h w"],
  region: Integer[AnyArray, "n h w"],
  valid: Bool[AnyArray, " n"],
  limit: float = 0.3,
) -> dict[str, float]:
  """Returns "auroc", "ap" and "pro" over all pixels of the valid images, all in [0,1].

  Args:
    score: [n,h,w], compared as float32.
    region: [n,h,w] 0 normal, k > 0 the k-th connected region of that image.
    valid: [n] images with False change nothing, whatever they hold.
    limit: false positive rate in (0,1] up to which PRO is integrated.

  Returns:
    Area under the ROC curve, step-wise average precision, and per-region overlap: the covered
    fraction of a region, averaged over the regions of all images, integrated over the false
    positive rate of all normal pixels up to the limit and divided by it (IM-IAD, table IV). No key
    if the valid pixels are not of both classes.

  Raises:
    ValueError: a valid image's score is not finite, or the limit is not in (0,1].
  """
  if not 0 < limit <= 1:
    raise ValueError(f"limit is {limit}, but must be above 0 and at most 1")
  return _evaluate(score, region, valid, limit)


def forgetting(matrix: Float[np.ndarray, "t t"]) -> tuple[float, float] | None:
  """Returns how much was forgotten on average, over all but the last task and over all tasks.

  Args:
    matrix: [t,t] the metric on task j after learning task i in row i, column j; NaN above the
      diagonal.

  Returns:
    The mean over the first t-1 tasks of the best value before the last task minus the value after
    it (Chaudhry et al. 2018, arXiv 1801.10112, equation 3), and the same sum divided by t, as in
    IM-IAD's tables, where the last task counts as 0. May be negative. None for a single task.

  Raises:
    ValueError: a value on or below the diagonal is not finite.
  """
  if not np.isfinite(matrix[np.tril_indices(len(matrix))]).all():
    raise ValueError(f"forgetting needs finite values on and below the diagonal, but got\n{matrix}")
  if len(matrix) < 2:
    return None
  lost = np.nanmax(matrix[:-1, :-1], axis=0) - matrix[-1, :-1]  # [t-1]
  return float(lost.mean()), float(lost.sum() / len(matrix))


def _evaluate(
  score: Float[AnyArray, "n h w"],
  region: Integer[AnyArray, "n h w"],
  valid: Bool[AnyArray, " n"],
  limit: float,
) -> dict[str, float]:
  valid = np.asarray(valid)
  position, weight = _anomalous(np.asarray(region), valid)
  anomalous = len(position)
  normal = int(valid.sum()) * math.prod(score.shape[1:]) - anomalous
  if anomalous + normal == 0:
    return {}
  more = -len(score) % parallel.count()
  rows = parallel.block(parallel.shard((_pad(score, more, "float32"), _pad(valid, more))))
  more = _bucket(anomalous) - anomalous
  position = np.pad(position, (0, more), constant_values=-1)
  weight = np.pad(weight, ((0, 0), (0, more)))
  with jax.enable_x64(True):  # for counts above 2^31 and sums without cancellation
    *ranks, broken = parallel.block(_sharded()(*rows, position))
    _refuse(np.asarray(broken))
    if not anomalous or not normal:
      return {}
    ranks = [x.addressable_data(0) for x in ranks]  # one device: the same bits for any number
    values = _values(*ranks, weight, float(normal), float(limit))
  return {k: float(values[k]) for k in ("auroc", "ap", "pro")}


def _anomalous(
  region: Integer[np.ndarray, "n h w"], valid: Bool[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " p"], Float64[np.ndarray, "2 p"]]:
  """Returns the place of each anomalous pixel among all pixels; its weights in ROC and PRO."""
  place = np.flatnonzero(region > 0)
  image = place // max(region[:1].size, 1)
  place, image = place[valid[image]], image[valid[image]]
  name = region.reshape(-1)[place].astype(np.int64) + (image << 32)  # unique in all images
  _, owner, area = np.unique(name, return_inverse=True, return_counts=True)
  pro = 1 / (max(len(area), 1) * area[owner])
  return place, np.stack([np.full(len(place), 1 / max(len(place), 1)), pro])


def _refuse(broken: Integer[np.ndarray, " n"]):
  """Raises ValueError if a count of scores that are not finite is above 0."""
  if broken.any():
    first = np.flatnonzero(broken)[0]
    raise ValueError(
      f"{broken.sum()} scores are not finite, the first of them in image {first}; "
      "a method must give finite float32 scores for every valid image"
    )


def _bucket(size: int) -> int:
  """Returns the next power of two: one compilation then serves many sizes."""
  return 1 << max(size - 1, 0).bit_length()


def _pad(x: AnyArray, more: int, dtype: str | None = None) -> AnyArray:
  """Appends `more` rows of zeros."""
  xp = jnp if isinstance(x, jax.Array) else np
  x = xp.asarray(x, dtype)
  return xp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)) if more else x


@functools.cache
def _sharded() -> Callable:
  rows, everything = PartitionSpec(parallel.AXIS), PartitionSpec()
  out = (everything, everything, everything, rows)
  specs = {"in_specs": (rows, rows, everything), "out_specs": out}
  return jax.jit(jax.shard_map(_ranks, mesh=parallel.mesh(), **specs))


def _ranks(
  score: Float32[Array, "n h w"], valid: Bool[Array, " n"], position: Int64[Array, " p"]
) -> tuple[Int32[Array, " p"], Int64[Array, " p"], Int64[Array, " p"], Int32[Array, " n"]]:
  """One device's share: its images, but the anomalous pixels of all; place -1 is padding.

  Returns:
    [p] the key of each anomalous pixel, [p] gt and [p] ge, all the same on all devices;
    [n] how many scores of a valid image are not finite.
  """
  broken = jnp.sum(~jnp.isfinite(score), (1, 2), dtype=jnp.int32) * valid
  key = jnp.where(valid[:, None, None], _order(score), LOWEST).reshape(-1)  # [n*h*w]
  local = position - jax.lax.axis_index(parallel.AXIS) * key.size
  here = (position >= 0) & (local >= 0) & (local < key.size)
  local = jnp.where(here, local, key.size)  # out of bounds
  query = key.at[local].get(mode="fill", fill_value=0)
  query = jax.lax.psum(query, parallel.AXIS)  # each was filled in by one device
  query = jnp.where(position < 0, LOWEST, query)
  rest = jnp.sort(key.at[local].set(LOWEST, mode="drop"))

  def above(side: str) -> Int64[Array, " p"]:
    below = jnp.searchsorted(rest, query, side=side)
    return jax.lax.psum((rest.size - below).astype(jnp.int64), parallel.AXIS)

  return query, above("right"), above("left"), broken


def _order(score: Float32[Array, "n h w"]) -> Int32[Array, "n h w"]:
  """Returns integers in the order of the scores, 0 for both zeros: XLA sorts them 5x faster."""
  bits = jax.lax.bitcast_convert_type(score, jnp.int32)
  return jnp.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@jax.jit
def _values(
  query: Int32[Array, " p"],
  gt: Int64[Array, " p"],
  ge: Int64[Array, " p"],
  weight: Float64[Array, "2 p"],
  normal: Float64[Array, ""],
  limit: Float64[Array, ""],
) -> dict[str, Float64[Array, ""]]:
  """Returns the metrics by the formulas of the module's notation."""
  tp = query.size - jnp.searchsorted(jnp.sort(query), query)
  a, b = gt / normal, ge / normal
  return {
    "auroc": _area(weight[0], a, b, 1.0),
    "ap": jnp.sum(weight[0] * tp / (tp + ge)),
    "pro": _area(weight[1], a, b, limit) / limit,
  }


def _area(
  weight: Float64[Array, " p"],
  a: Float64[Array, " p"],
  b: Float64[Array, " p"],
  limit: float | Float64[Array, ""],
) -> Float64[Array, ""]:
  """Returns the area below the weighted curve up to the limit; see the module's notation."""
  ramp = jnp.maximum(jnp.minimum(b, limit) - a, 0) ** 2 / jnp.where(b > a, 2 * (b - a), 1)
  return jnp.sum(weight * (jnp.maximum(limit - b, 0) + ramp))
