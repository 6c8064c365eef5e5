"""Times the pixel metrics against scikit-learn and NumPy on 100 maps of 256 x 256.

python benchmarks/metrics.py
"""

import statistics
import time

import jax
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from imiad_jax import metrics

REPEATS = 5


def example(n: int = 100, size: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns scores [n,h,w], regions [n,h,w] with 1.8 % anomalous pixels, and valid [n]."""
  rng = np.random.default_rng(0)
  region = np.zeros((n, size, size), np.int32)
  for image in region[: 2 * n // 3]:
    for k in (1, 2):
      h, w = rng.integers(8, 50, 2)
      y, x = rng.integers(0, size - h), rng.integers(0, size // 2 - w) + (k - 1) * size // 2
      image[y : y + h, x : x + w] = k
  score = rng.standard_normal(region.shape) + 1.2 * (region > 0)
  return score.astype(np.float32), region, np.ones(n, bool)


def sklearn_auroc(score: np.ndarray, region: np.ndarray) -> float:
  """Returns scikit-learn's AUROC."""
  return float(roc_auc_score(region.ravel() > 0, score.ravel()))


def sklearn_ap(score: np.ndarray, region: np.ndarray) -> float:
  """Returns scikit-learn's average precision."""
  return float(average_precision_score(region.ravel() > 0, score.ravel()))


def numpy_pro(score: np.ndarray, region: np.ndarray, limit: float = 0.3) -> float:
  """Returns PRO with a threshold at every distinct score, by cumulative sums of sorted pixels."""
  name = np.arange(len(region))[:, None, None] * (region.max() + 1) + region
  area = np.bincount(name.ravel()) * (np.arange(name.max() + 1) % (region.max() + 1) > 0)
  weight = np.zeros(len(area))
  weight[area > 0] = 1 / (np.count_nonzero(area) * area[area > 0])
  order = np.argsort(-score, axis=None)
  ordered = score.ravel()[order]
  last = np.append(ordered[1:] != ordered[:-1], True)  # of the pixels with one score
  fpr = np.cumsum(region.ravel()[order] == 0)[last] / np.count_nonzero(region == 0)
  covered = np.cumsum(weight[name.ravel()[order]])[last]
  fpr, covered = np.append(0, fpr), np.append(0, covered)
  end = np.searchsorted(fpr, limit)  # the first point at or behind the limit
  x = np.append(fpr[:end], limit)
  y = np.append(covered[:end], np.interp(limit, fpr[end - 1 : end + 1], covered[end - 1 : end + 1]))
  return float(np.trapezoid(y, x) / limit)


def main():
  """Prints medians, ratios and the largest disagreement; all in one process, in turns."""
  score, region, valid = example()
  share = (region > 0).mean()
  print(f"{score.shape}, {share:.2%} anomalous, {len(jax.devices())} x {jax.devices()[0]}")
  jobs = {
    "ours": lambda: metrics.pixel(score, region, valid),
    "auroc": lambda: sklearn_auroc(score, region),
    "ap": lambda: sklearn_ap(score, region),
    "pro": lambda: numpy_pro(score, region),
  }
  seconds, values = {k: [] for k in jobs}, {}
  start = time.perf_counter()
  jobs["ours"]()
  print(f"ours, first call with compilation: {time.perf_counter() - start:.3f} s")
  for _ in range(REPEATS):
    for k, job in jobs.items():
      start = time.perf_counter()
      values[k] = job()
      seconds[k].append(time.perf_counter() - start)
  median = {k: statistics.median(v) for k, v in seconds.items()}
  for k, v in values["ours"].items():
    ratio = median[k] / median["ours"]
    print(f"{k:6}{median[k]:7.3f} s, {ratio:4.1f} x ours, differs by {abs(v - values[k]):.1e}")
  others = sum(median.values()) - median["ours"]
  print(
    f"all   {others:7.3f} s against {median['ours']:.3f} s: {others / median['ours']:.1f} x ours"
  )


if __name__ == "__main__":
  main()
