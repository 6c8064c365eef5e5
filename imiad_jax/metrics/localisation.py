"""Metrics of pixels: the exact way where the pixels fit a budget, the streaming way where not."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from imiad_jax.metrics import exact, marks, streaming

BUDGET = 1 << 27  # pixels: the exact way then takes about 2 GB
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)  # as MVTec LOCO's own evaluation


def pixel(
  score: Float[exact.AnyArray, "n h w"],
  region: Integer[exact.AnyArray, "n h w"],
  valid: Bool[exact.AnyArray, " n"],
  limit: float = exact.LIMIT,
  f1: bool = False,
  budget: int = BUDGET,
) -> dict[str, float]:
  """Returns "auroc", "ap" and "pro" over all pixels of the valid images, all in [0,1].

  Args:
    score: [n,h,w], compared as float32.
    region: [n,h,w] 0 normal, k > 0 the k-th connected region of that image.
    valid: [n] images with False change nothing, whatever they hold.
    limit: false positive rate in (0,1] up to which PRO is integrated.
    f1: whether to return also "f1max", the highest F1 of any threshold, in [0,1], and "threshold",
      the largest score that reaches it if every score >= it counts as detected.
    budget: above this number of pixels (of all n images) `streaming` is used.

  Returns:
    Area under the ROC curve, step-wise average precision, and per-region overlap: the covered
    fraction of a region, averaged over the regions of all images, integrated over the false
    positive rate of all normal pixels up to the limit and divided by it (IM-IAD, table IV). No key
    if the valid pixels are not of both classes. Exact, unless there are keys that end in "_error":
    then the values and bounds of `streaming.finish`.

  Raises:
    ValueError: a valid image's score is not finite, or the limit is not in (0,1].
  """
  _check(limit)
  valid = np.asarray(valid)
  if score.size > budget:
    state = streaming.init(*streaming.span(score, valid))
    out = streaming.finish(streaming.add(state, score, region, valid), limit)
  else:
    found = exact.evaluate(score, marks.of_regions(np.asarray(region), valid), valid, (limit,))
    out = found[0] | {"pro": found[1][0]} if found else {}
  return {k: v for k, v in out.items() if f1 or k not in ("f1max", "f1max_error", "threshold")}


def spro(
  score: Float[exact.AnyArray, "n h w"],
  defects: marks.Defects,
  valid: Bool[exact.AnyArray, " n"],
  limits: tuple[float, ...] = LIMITS,
  budget: int = BUDGET,
) -> dict[str, float]:
  """Returns saturated PRO of MVTec LOCO, {"spro@0.05": ...} for each limit, all in [0,1].

  Args:
    score: [n,h,w] at the original resolution of the masks, compared as float32.
    defects: of each image its defects, as (mask [h,w] bool, saturation in pixels). The masks of an
      image may overlap: a pixel then counts in each. A pixel in no mask is normal. A saturation
      above the area of its mask counts as the area, as in MVTec's own evaluation; where all do,
      and no masks overlap, this is PRO.
    valid: [n] images with False change nothing, whatever they hold.
    limits: false positive rates in (0,1] up to which the curve is integrated.
    budget: above this number of pixels (of all n images) `streaming` is used.

  Returns:
    The mean of min(detected pixels / saturation, 1) over all defects, integrated over the false
    positive rate of all normal pixels up to each limit and divided by it (Bergmann et al. 2022,
    Beyond Dents and Scratches, IJCV 130, section 5; IM-IAD, table IV). No key without a defect or
    a normal pixel. Exact, unless there are keys that end in "_error": a bound on the error.

  Raises:
    ValueError: a valid image's score is not finite, a limit is not in (0,1], a defect of a valid
      image is not bool [h,w], is empty or saturates below 1 pixel.
  """
  for limit in limits:
    _check(limit)
  valid = np.asarray(valid)
  if score.size > budget:
    state = streaming.init(*streaming.span(score, valid))
    areas = streaming.areas(streaming.add_defects(state, score, defects, valid), limits)
    errors = {f"spro@{x}_error": error for x, (_, error) in zip(limits, areas, strict=False)}
    return {f"spro@{x}": v for x, (v, _) in zip(limits, areas, strict=False)} | errors
  marked = marks.of_defects(np.asarray(score), defects, valid)
  found = exact.evaluate(score, marked, valid, limits)
  return {f"spro@{x}": v for x, v in zip(limits, found[1], strict=True)} if found else {}


def loco(
  score: Float[exact.AnyArray, "n h w"],
  defects: marks.Defects,
  kind: Sequence[str] | np.ndarray,
  valid: Bool[exact.AnyArray, " n"],
  limits: tuple[float, ...] = LIMITS,
  budget: int = BUDGET,
) -> dict[str, float]:
  """Returns MVTec LOCO's summary of `spro`: of structural and logical anomalies, and their mean.

  Args:
    score: as for `spro`.
    defects: as for `spro`.
    kind: [n] "good", "structural_anomalies" or "logical_anomalies", the folder of each image.
    valid: [n] images with False change nothing, whatever they hold.
    limits: as for `spro`.
    budget: as for `spro`.

  Returns:
    {"spro@0.05_structural", "spro@0.05_logical", "spro@0.05"} for each limit: each kind with all
    good images, and half of the sum of both, where both are there. Bounds of errors alike.

  Raises:
    ValueError: as `spro`, or an image is of another kind.
  """
  kind, valid = np.asarray(kind), np.asarray(valid)
  names = ("structural", "logical")
  others = set(kind[valid].tolist()) - {"good"} - {f"{name}_anomalies" for name in names}
  if others:
    raise ValueError(f"kinds are good, structural_anomalies, logical_anomalies, not {others}")
  out: dict[str, float] = {}
  parts = []
  for name in names:
    chosen = valid & ((kind == "good") | (kind == f"{name}_anomalies"))
    parts.append(spro(score, defects, chosen, limits, budget))
    out |= {f"{k}_{name}": v for k, v in parts[-1].items()}
  return out | {k: (parts[0][k] + parts[1][k]) / 2 for k in parts[0] if k in parts[1]}


def _check(limit: float) -> None:
  if not 0 < limit <= 1:
    raise ValueError(f"limit is {limit}, but must be above 0 and at most 1")
