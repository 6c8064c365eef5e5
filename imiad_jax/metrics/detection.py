"""Metrics of images: of all kinds of defects together, and of each kind against all good images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from imiad_jax.metrics import exact, marks


def binary(
  score: Float[exact.AnyArray, " n"],
  label: Integer[exact.AnyArray, " n"],
  valid: Bool[exact.AnyArray, " n"],
  f1: bool = False,
) -> dict[str, float]:
  """Returns "auroc" and "ap" of images, both in [0,1]; higher scores should be more anomalous.

  Args:
    score: [n], compared as float32.
    label: [n] 1 anomalous, 0 normal.
    valid: [n] rows with False change nothing, whatever they hold.
    f1: whether to return also "f1max", the highest F1 of any threshold, in [0,1], and "threshold",
      the largest score that reaches it if every score >= it counts as detected.

  Returns:
    Area under the ROC curve and step-wise average precision (IM-IAD, table IV; the values of
    scikit-learn); no key if the valid rows are not of both classes.

  Raises:
    ValueError: a valid row's score is not finite.
  """
  more = exact.bucket(len(score)) - len(score)
  score, label, valid = (exact.pad(x, more) for x in (score, label, valid))
  valid = np.asarray(valid)
  marked = marks.of_regions(np.asarray(label)[:, None, None], valid)
  found = exact.evaluate(score[:, None, None], marked, valid)
  keys = ("auroc", "ap", *(("f1max", "threshold") if f1 else ()))
  return {k: found[0][k] for k in keys} if found else {}


def per_kind(
  score: Float[exact.AnyArray, " n"],
  kind: Sequence[str] | np.ndarray,
  valid: Bool[exact.AnyArray, " n"],
  good: str = "good",
) -> dict[str, dict[str, float]]:
  """Returns what `binary` does for each kind of defect against all good images, by kind.

  Args:
    score: [n], compared as float32.
    kind: [n] `good`, or the kind of defect.
    valid: [n] rows with False change nothing, whatever they hold.
    good: the kind of images without a defect.

  Returns:
    {kind: {"auroc", "ap"}} for the kinds of valid rows, in alphabetical order; nothing
    without a good image. AP depends on how many images of the kind there are.

  Raises:
    ValueError: a valid row's score is not finite, or there are not n kinds.
  """
  kind, valid = np.asarray(kind), np.asarray(valid)
  if kind.shape != valid.shape:
    raise ValueError(f"there are {len(kind)} kinds for {len(valid)} images")
  label = (kind != good).astype(np.int32)
  names = [str(k) for k in np.unique(kind[valid]) if k != good]
  out = {k: binary(score, label, valid & ((kind == good) | (kind == k))) for k in names}
  return {k: v for k, v in out.items() if v}
