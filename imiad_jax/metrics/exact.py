"""The exact way: every value on all devices from one sort, and a search in it.

Notation: n1 anomalous pixels have scores s_i, n0 pixels are normal. A pixel counts as detected at a
threshold t if its score is >= t, so pixels of one score are detected together. For the anomalous
pixel i

  gt_i, ge_i  normal pixels with a score > s_i, >= s_i
  a_i, b_i    gt_i / n0, ge_i / n0: the false positive rate just before and just after t = s_i
  tp_i        anomalous pixels with a score >= s_i
  w_i         its weight, sum_i w_i = 1: 1/n1 in a ROC curve; 1/(R |r|) in a PRO curve, where it
              lies in region r of |r| pixels, one of R; for saturated PRO see `marks`

The curve of the detected weight over the false positive rate f, linear between the points of two
neighbouring distinct thresholds, is sum_i w_i clip((f - a_i) / (b_i - a_i), 0, 1), a step where
a_i = b_i. So the area below it up to f = L is

  sum_i w_i (max(L - b_i, 0) + max(min(b_i, L) - a_i, 0)^2 / (2 (b_i - a_i)))

without its second term where a_i = b_i. AUROC is this area with L = 1 (Fawcett 2006), PRO is the
area up to its limit divided by the limit (Bergmann et al. 2021, MVTec AD, IJCV 129, section 5.2),
and the step-wise average precision, as in scikit-learn, is sum_i tp_i / (tp_i + ge_i) / n1.
F1 at t = s_i is 2 tp_i / (n1 + tp_i + ge_i); no other threshold has a higher one, since lowering t
from one anomalous score towards the next only adds false alarms.
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
from imiad_jax.metrics import keys, marks

AnyArray = jax.Array | np.ndarray  # on one device, on many, or on the host
LIMIT = 0.3  # the false positive rate up to which PRO is integrated, by MVTec's convention


def evaluate(
  score: Float[AnyArray, "n h w"],
  marked: marks.Marks,
  valid: Bool[np.ndarray, " n"],
  limits: tuple[float, ...] = (1.0,),
) -> tuple[dict[str, float], list[float]] | None:
  """Returns "auroc", "ap", "f1max" and "threshold", and the areas of overlap up to the limits.

  The threshold is the largest at which the best F1 is reached. An area is divided by its limit,
  which is a false positive rate in (0,1]. None if the valid pixels are not of both classes.

  Raises:
    ValueError: a valid image's score is not finite.
  """
  anomalous = len(marked.place)
  normal = int(valid.sum()) * math.prod(score.shape[1:]) - anomalous
  if anomalous + normal == 0:
    return None
  more = -len(score) % parallel.count()
  rows = parallel.block(parallel.shard((pad(score, more, "float32"), pad(valid, more))))
  more = bucket(anomalous) - anomalous
  place = np.pad(marked.place, (0, more), constant_values=-1)
  weight = np.pad(marks.weights(marked), ((0, 0), (0, more)))
  with jax.enable_x64(True):  # for counts above 2^31 and sums without cancellation
    *ranks, broken = parallel.block(_sharded()(*rows, place))
    _refuse(np.asarray(broken))
    if not anomalous or not normal:
      return None
    ranks = [x.addressable_data(0) for x in ranks]  # one device: the same bits for any number
    counts = np.array([anomalous, normal], np.float64)
    values, best, areas = _values(*ranks, weight, counts, np.array(limits, np.float64))
  out = {k: float(v) for k, v in values.items()}
  return out | {"threshold": keys.score(int(best))}, [float(x) for x in areas]


def _refuse(broken: Integer[np.ndarray, " n"]):
  """Raises ValueError if a count of scores that are not finite is above 0."""
  if broken.any():
    first = np.flatnonzero(broken)[0]
    raise ValueError(
      f"{broken.sum()} scores are not finite, the first of them in image {first}; "
      "a method must give finite float32 scores for every valid image"
    )


def bucket(size: int) -> int:
  """Returns the next power of two: one compilation then serves many sizes."""
  return 1 << max(size - 1, 0).bit_length()


def pad(x: AnyArray, more: int, dtype: str | None = None) -> AnyArray:
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
  key = jnp.where(valid[:, None, None], keys.order(score), keys.LOWEST).reshape(-1)  # [n*h*w]
  local = position - jax.lax.axis_index(parallel.AXIS) * key.size
  here = (position >= 0) & (local >= 0) & (local < key.size)
  local = jnp.where(here, local, key.size)  # out of bounds
  query = key.at[local].get(mode="fill", fill_value=0)
  query = jax.lax.psum(query, parallel.AXIS)  # each was filled in by one device
  query = jnp.where(position < 0, keys.LOWEST, query)
  rest = jnp.sort(key.at[local].set(keys.LOWEST, mode="drop"))

  def above(side: str) -> Int64[Array, " p"]:
    below = jnp.searchsorted(rest, query, side=side)
    return jax.lax.psum((rest.size - below).astype(jnp.int64), parallel.AXIS)

  return query, above("right"), above("left"), broken


@jax.jit
def _values(
  query: Int32[Array, " p"],
  gt: Int64[Array, " p"],
  ge: Int64[Array, " p"],
  weight: Float64[Array, "2 p"],
  counts: Float64[Array, "2"],
  limits: Float64[Array, " k"],
) -> tuple[dict[str, Float64[Array, ""]], Int32[Array, ""], Float64[Array, " k"]]:
  """Returns the metrics by the formulas of the module's notation, and the key of the best F1."""
  tp = query.size - jnp.searchsorted(jnp.sort(query), query)
  a, b = gt / counts[1], ge / counts[1]
  f1 = jnp.where(query > keys.LOWEST, 2 * tp / (counts[0] + tp + ge), -1)
  values = {
    "auroc": _at_most_1(_area(weight[0], a, b, 1.0)),
    "ap": _at_most_1(jnp.sum(weight[0] * tp / (tp + ge))),
    "f1max": jnp.max(f1),
  }
  best = jnp.max(jnp.where(f1 == values["f1max"], query, keys.LOWEST))
  areas = jax.vmap(lambda limit: _area(weight[1], a, b, limit) / limit)(limits)
  return values, best, _at_most_1(areas)


def _at_most_1(x: Float64[Array, "..."]) -> Float64[Array, "..."]:
  """Takes back what is above 1 because the weights add up to 1 up to rounding only."""
  return jnp.minimum(x, 1)


def _area(
  weight: Float64[Array, " p"],
  a: Float64[Array, " p"],
  b: Float64[Array, " p"],
  limit: float | Float64[Array, ""],
) -> Float64[Array, ""]:
  """Returns the area below the weighted curve up to the limit; see the module's notation."""
  ramp = jnp.maximum(jnp.minimum(b, limit) - a, 0) ** 2 / jnp.where(b > a, 2 * (b - a), 1)
  return jnp.sum(weight * (jnp.maximum(limit - b, 0) + ramp))
