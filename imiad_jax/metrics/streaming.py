"""The streaming way: histograms of scores, in a memory that does not grow with the images.

  state = streaming.init(low, high)
  for each part of the images: state = streaming.add(state, score, region, valid)
  streaming.finish(state) -> {"auroc", "auroc_error", "ap", "ap_error", ...}

Notation: a bin is a range of scores, of equally many float32 numbers for all but the first and the
last, which also take what is below `low` and above `high`. For one bin

  P, N     its anomalous and normal pixels; n1, n0 those of all bins
  T, F     anomalous and normal pixels in the bins above it
  W        the weight of its anomalous pixels, as in `exact`: sum 1 over all bins
  a, b     F / n0, (F + N) / n0

The values are those of `exact` for scores rounded to their bins. How far the true ones can be from
them follows from the counts alone, whatever the order within a bin:

  area     of weight over false positive rate up to L: the curve is known at a and b and rises
           between them, so with d = min(b, L) - a > 0 the area of this bin's weight before b is
           between 0 and W d, and W d^2 / (2 (b - a)) is taken (AUROC: L = 1)
  ap       P anomalous pixels have a precision of at most (T + P) / (T + P + F) each, reached if all
           come first and tie. At least, all normal ones come first and no two tie, they have
           together sum_{j=1..P} (T + j) / (T + j + G), G = F + N, and since 1/x is convex this is
           at least P - G log(1 + P / (T + G + 1/2)), and at least P (T + 1) / (T + 1 + G)
  f1max    at most the highest 2 (T + P) / (n1 + T + P + F); the value itself is reached at the
           lower end of a bin

Nothing but rounding in float64 is left out of the bounds. All pixels in one bin have an AUROC of
0.5 with an error of 0.5. A bin with one distinct score has an error of its own all the same: the
counts do not show it. With `low` and `high` from `span`, 2^18 bins are usually 2^-13 to 2^-16 of
their score wide.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Float64, Int64, Integer

from imiad_jax import parallel
from imiad_jax.metrics import exact, keys, marks

HIGHEST = float(np.finfo(np.float32).max)
PART = 1 << 20  # pixels added at once
FEW = 1 << 16  # anomalous pixels to which a part is padded: one compilation for most parts


class State(NamedTuple):
  """Counts of the pixels so far; a pytree, the same on all devices."""

  low: jax.Array  # [] int32: the key of the lowest score of the first bin
  shift: jax.Array  # [] int32: a bin has 2^shift keys
  pixels: jax.Array  # [k] int64
  anomalous: jax.Array  # [k] int64
  weight: jax.Array  # [k] float64: of marks.Marks
  regions: jax.Array  # [] int64
  broken: jax.Array  # [] int64: scores that are not finite


def init(low: float = -HIGHEST, high: float = HIGHEST, bits: int = 18) -> State:
  """Returns a State without a pixel, of 2^bits bins.

  Args:
    low, high: where most scores are expected. A good guess makes the bins narrow and so the error
      small; a bad one makes it large, but its bound stays true.
    bits: 1 to 24; the State takes 24 * 2^bits bytes.

  Raises:
    ValueError: low is above high, one is not a finite float32, or bits is out of range.
  """
  if not -HIGHEST <= low <= high <= HIGHEST:
    raise ValueError(f"low is {low}, high is {high}, but must be finite float32, low <= high")
  if not 1 <= bits <= 24:
    raise ValueError(f"bits is {bits}, but must be in 1 to 24")
  first = keys.key(low)
  shift = max((keys.key(high) - first).bit_length() - bits, 0)
  with jax.enable_x64(True):
    counts = np.zeros(1 << bits, np.int64)
    numbers = [np.int32(first), np.int32(shift), np.int64(0), np.int64(0)]
    low_key, width, regions, broken = parallel.replicate([jnp.asarray(x) for x in numbers])
    pixels, weight = parallel.replicate((jnp.asarray(counts), jnp.asarray(counts * 0.0)))
    return State(low_key, width, pixels, pixels, weight, regions, broken)


def span(
  score: Float[exact.AnyArray, "n h w"], valid: Bool[np.ndarray, " n"]
) -> tuple[float, float]:
  """Returns the lowest and highest score of the valid images, for `init`.

  The whole range of float32 where there is none or one is not finite.
  """
  if not valid.any():
    return -HIGHEST, HIGHEST
  flat = score.reshape(len(score), -1)
  low = float(np.asarray(flat.min(1))[valid].min())
  high = float(np.asarray(flat.max(1))[valid].max())
  known = -HIGHEST <= low <= high <= HIGHEST
  return (low, high) if known else (-HIGHEST, HIGHEST)


def add(
  state: State,
  score: Float[exact.AnyArray, "n h w"],
  region: Integer[exact.AnyArray, "n h w"],
  valid: Bool[exact.AnyArray, " n"],
) -> State:
  """Returns the State with some images added; the arguments are those of `metrics.pixel`.

  A score that is not finite is found by `finish`, so that this need not wait for the device.
  """
  valid = np.asarray(valid)
  return _add(state, score, valid, lambda p: marks.of_regions(np.asarray(region[p]), valid[p]))


def add_defects(
  state: State,
  score: Float[exact.AnyArray, "n h w"],
  defects: marks.Defects,
  valid: Bool[exact.AnyArray, " n"],
) -> State:
  """Returns the State with some images added; the arguments are those of `metrics.spro`.

  Raises:
    ValueError: as `metrics.spro`, but for scores that are not finite, which `areas` finds.
  """
  valid = np.asarray(valid)

  def mark(part: slice) -> marks.Marks:
    return marks.of_defects(np.asarray(score[part]), defects[part], valid[part])

  return _add(state, score, valid, mark)


def _add(
  state: State,
  score: Float[exact.AnyArray, "n h w"],
  valid: Bool[np.ndarray, " n"],
  mark: Callable[[slice], marks.Marks],
) -> State:
  rows = PART // max(score[:1].size, 1) // parallel.count() * parallel.count()
  rows = max(min(rows, exact.bucket(len(score))), 1)
  rows += -rows % parallel.count()
  for first in range(0, len(score), rows):
    part = slice(first, first + rows)
    marked = mark(part)
    more = rows - len(valid[part])
    maps = exact.pad(score[part], more, "float32"), exact.pad(valid[part], more)
    more = max(exact.bucket(len(marked.place)), FEW) - len(marked.place)
    place = np.pad(marked.place, (0, more), constant_values=-1)
    weight = np.pad(marked.weight, (0, more))
    maps = parallel.block(parallel.shard(maps))
    jax.block_until_ready(state.pixels)  # one part at a time, or those that wait pile up
    with jax.enable_x64(True):
      state = parallel.block(_sharded()(state, *maps, place, weight, np.int64(marked.regions)))
  return state


@functools.cache
def _sharded() -> Callable:
  rows, everything = PartitionSpec(parallel.AXIS), PartitionSpec()
  specs = (everything, rows, rows, everything, everything, everything)
  fn = jax.shard_map(_count, mesh=parallel.mesh(), in_specs=specs, out_specs=everything)
  return jax.jit(fn)


def _count(
  state: State,
  score: Float32[Array, "n h w"],
  valid: Bool[Array, " n"],
  place: Int64[Array, " p"],
  weight: Float64[Array, " p"],
  regions: Int64[Array, ""],
) -> State:
  """One device's share: its images, but the anomalous pixels of all; place -1 is padding."""
  bins = state.pixels.size
  above = jnp.maximum(keys.order(score), state.low).astype(jnp.uint32)
  above = above - state.low.astype(jnp.uint32)  # of two's complement: no overflow
  slot = jnp.minimum(above >> state.shift.astype(jnp.uint32), bins - 1).astype(jnp.int32)
  slot = jnp.where(valid[:, None, None], slot, bins).reshape(-1)  # out of bounds: dropped
  local = place - jax.lax.axis_index(parallel.AXIS) * slot.size
  here = (place >= 0) & (local >= 0) & (local < slot.size)
  own = jnp.where(here, slot[jnp.where(here, local, 0)], bins)
  added = (
    jnp.zeros(bins, jnp.int32).at[slot].add(1, mode="drop"),
    jnp.zeros(bins, jnp.int32).at[own].add(1, mode="drop"),
    jnp.zeros(bins).at[own].add(weight, mode="drop"),
    jnp.sum(~jnp.isfinite(score), (1, 2)) @ valid,
  )
  pixels, anomalous, weight, broken = jax.lax.psum(added, parallel.AXIS)
  return State(
    state.low,
    state.shift,
    state.pixels + pixels,
    state.anomalous + anomalous,
    state.weight + weight,
    state.regions + regions,
    state.broken + broken,
  )


def finish(state: State, limit: float = exact.LIMIT) -> dict[str, float]:
  """Returns the values of `metrics.pixel` with "threshold", and bounds on their errors.

  Returns:
    "auroc", "ap", "f1max", "pro" and "auroc_error", ..., each at least the difference of the value
    to that of `metrics.pixel`. "threshold" is the largest lower end of a bin at which F1 is
    "f1max", exactly. No key if the pixels are not of both classes.

  Raises:
    ValueError: a score was not finite, or the limit is not in (0,1].
  """
  pro = areas(state, (limit,))
  if not pro:
    return {}
  c = _Counts.of(state)
  auroc = _area(c.p / c.p.sum(), c, 1.0)
  value = c.p @ _ratio(c.t + c.p, c.t + c.p + c.f + c.n)
  most = c.p @ _ratio(c.t + c.p, c.t + c.p + c.f)
  g = c.f + c.n
  least = np.maximum(c.p - g * np.log1p(c.p / (c.t + g + 0.5)), c.p * (c.t + 1) / (c.t + 1 + g))
  ap_error = max(most - value, value - least.sum()) / c.p.sum()
  f1 = 2 * (c.t + c.p) / (c.p.sum() + c.t + c.p + g)
  f1_most = (2 * (c.t + c.p) / (c.p.sum() + c.t + c.p + c.f)).max()
  best = int(np.argmax(f1))  # the first from above
  start = int(state.low) + (int(c.slot[best]) << int(state.shift))
  out = {"auroc": auroc, "ap": (value / c.p.sum(), ap_error)}
  out |= {"f1max": (f1[best], f1_most - f1[best]), "pro": pro[0]}
  values = {k: float(v) for k, (v, _) in out.items()}
  errors = {f"{k}_error": float(max(e, 0)) for k, (_, e) in out.items()}
  return values | {"threshold": keys.score(start)} | errors


def areas(state: State, limits: Sequence[float]) -> list[tuple[float, float]]:
  """Returns (value, bound on its error) of the overlap up to each limit, as `metrics.spro` or PRO.

  Nothing if the pixels are not of both classes.

  Raises:
    ValueError: a score was not finite, or a limit is not in (0,1].
  """
  if int(state.broken):
    raise ValueError(f"{int(state.broken)} scores are not finite")
  if not all(0 < limit <= 1 for limit in limits):
    raise ValueError(f"limits are {limits}, but must be above 0 and at most 1")
  c = _Counts.of(state)
  if not c.p.sum() or not c.n.sum():
    return []
  return [_area(c.w, c, limit) for limit in limits]


class _Counts(NamedTuple):
  """The bins with a pixel, from the highest down; see the module's notation."""

  slot: np.ndarray
  p: np.ndarray
  n: np.ndarray
  t: np.ndarray
  f: np.ndarray
  w: np.ndarray

  @classmethod
  def of(cls, state: State) -> "_Counts":
    pixels = np.asarray(state.pixels)
    slot = np.flatnonzero(pixels)[::-1]
    p = np.asarray(state.anomalous)[slot].astype(float)
    n = pixels[slot] - p
    w = np.asarray(state.weight)[slot] / max(int(state.regions), 1)
    return cls(slot, p, n, np.cumsum(p) - p, np.cumsum(n) - n, w)


def _area(weight: np.ndarray, c: _Counts, limit: float) -> tuple[float, float]:
  """Returns the area up to the limit divided by it, and the bound on its error, alike."""
  n0 = c.n.sum()
  a, b = c.f / n0, (c.f + c.n) / n0
  d = np.maximum(np.minimum(b, limit) - a, 0)
  ramp = d**2 / np.where(b > a, 2 * (b - a), 1)  # at most d / 2
  value = weight @ (np.maximum(limit - b, 0) + ramp)
  return min(float(value / limit), 1.0), float(weight @ (d - ramp) / limit)


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Returns x / y, 0 where y is 0."""
  return x / np.maximum(y, 1)
