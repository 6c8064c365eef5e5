"""Times the pixel metrics, exact and streaming, against scikit-learn, NumPy and anomalib's PRO.

python benchmarks/metrics.py [--images 167] [--size 512] [--repeats 3]

All jobs run in turns in one process; their memory is measured in a process each.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from imiad_jax import metrics


def example(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns scores [n,h,w], regions [n,h,w] with 1.8 % anomalous pixels, and valid [n]."""
  rng = np.random.default_rng(0)
  region = np.zeros((n, size, size), np.int32)
  for image in region[: 2 * n // 3]:
    for k in (1, 2):
      h, w = rng.integers(size // 32, size // 5, 2)
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


def anomalib_pro(score: np.ndarray, region: np.ndarray) -> float:
  """Returns anomalib's PRO; raises ImportError where anomalib is not installed."""
  import torch  # pyright: ignore[reportMissingImports]
  from anomalib.metrics import aupro  # pyright: ignore[reportMissingImports]

  metric = aupro._AUPRO(fpr_limit=0.3)
  metric.update(torch.from_numpy(score), torch.from_numpy((region > 0).astype(np.int64)))
  return float(metric.compute())


def sklearn_f1(score: np.ndarray, region: np.ndarray) -> float:
  """Returns the highest F1 in scikit-learn's precision-recall curve."""
  precision, recall, _ = precision_recall_curve(region.ravel() > 0, score.ravel())
  return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


def exact(score: np.ndarray, region: np.ndarray) -> dict[str, float]:
  """Returns our exact values."""
  valid = np.ones(len(score), bool)
  return metrics.pixel(score, region, valid, f1=True, budget=score.size)


def streaming(score: np.ndarray, region: np.ndarray) -> dict[str, float]:
  """Returns our streaming values, with the bounds on their errors."""
  return metrics.pixel(score, region, np.ones(len(score), bool), f1=True, budget=0)


JOBS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
  "exact": exact,
  "streaming": streaming,
  "auroc": sklearn_auroc,
  "ap": sklearn_ap,
  "f1max": sklearn_f1,
  "pro": numpy_pro,
  "anomalib": anomalib_pro,
}


def extra_memory(job: str, folder: str) -> float:
  """Returns by how many MB a job raises the highest resident size of a process with the input."""
  argv = [sys.executable, __file__, "--job", job, "--folder", folder]
  return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def child(job: str, folder: str) -> None:
  """Prints what `extra_memory` returns: the input is there and all is imported before the job."""
  score, region = np.load(f"{folder}/score.npy"), np.load(f"{folder}/region.npy")
  jax.block_until_ready(jax.numpy.zeros(1))
  before = most_resident()
  JOBS[job](score, region)
  print(most_resident() - before)


def most_resident() -> float:
  """Returns the highest resident size of this process so far, in MB; only on Linux.

  Not `getrusage`, which counts what the parent had when it started this process.
  """
  with open("/proc/self/status", encoding="ascii") as lines:
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def timed(jobs: list[str], score: np.ndarray, region: np.ndarray, repeats: int):
  """Returns {job: median seconds}, {job: its last value}; the jobs run in turns."""
  seconds: dict[str, list[float]] = {k: [] for k in jobs}
  values = {}
  for _ in range(repeats):
    for k in jobs:
      start = time.perf_counter()
      values[k] = JOBS[k](score, region)
      seconds[k].append(time.perf_counter() - start)
  return {k: statistics.median(v) for k, v in seconds.items()}, values


def main(n: int, size: int, repeats: int, folder: str) -> None:
  """Prints medians, ratios, memory and the largest disagreement."""
  score, region, _ = example(n, size)
  np.save(f"{folder}/score.npy", score)
  np.save(f"{folder}/region.npy", region)
  share = (region > 0).mean()
  print(f"{score.shape}, {share:.2%} anomalous, {len(jax.devices())} x {jax.devices()[0]}")
  for k in ("exact", "streaming"):
    start = time.perf_counter()
    JOBS[k](score, region)
    print(f"{k}, first call with compilation: {time.perf_counter() - start:.2f} s")
  jobs = [k for k in JOBS if k != "anomalib"]
  try:
    anomalib_pro(score[:2], region[:2])
    jobs.append("anomalib")
  except ImportError:
    print("anomalib: not installed")
  median, values = timed(jobs, score, region, repeats)
  for k in jobs:
    print(f"{k:10}{median[k]:8.2f} s, {extra_memory(k, folder):6.0f} MB over the input")
  for ours in ("exact", "streaming"):
    for k in ("auroc", "ap", "f1max", "pro"):
      bound = f", its own bound {values[ours][k + '_error']:.1e}" if ours == "streaming" else ""
      print(f"{ours} {k} differs by {abs(values[ours][k] - values[k]):.1e}{bound}")
    others = sum(median[k] for k in ("auroc", "ap", "f1max", "pro"))
    print(f"the four together: {others:.1f} s, {others / median[ours]:.1f} x {ours}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--images", type=int, default=167)
  parser.add_argument("--size", type=int, default=512)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
  parser.add_argument("--folder", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.job:
    child(args.job, args.folder)
  else:
    with tempfile.TemporaryDirectory() as folder:
      main(args.images, args.size, args.repeats, folder)
