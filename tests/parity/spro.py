"""Writes spro.npz: saturated PRO of some maps by MVTec's own evaluation code, and PRO by it.

Needs a checkout that carries the code as `metric/mvtec_loco` and `metric/mvtec3d`, such as
github.com/M-3LAB/open-iad at 05044fe: `python tests/parity/spro.py PATH_TO_CHECKOUT`.

MVTec's evaluation takes some thresholds of all; here it is asked for one between every two
neighbouring scores, where its curve has every point there is, and once as it comes.
"""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHAPE = (6, 32, 32)
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)
# Absolute below and above the area, relative: the saturation of defects of value 1, 2, 3.
CONFIG = [(1, 25, False), (2, 100000, False), (3, 0.37, True)]


def draw() -> tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]:
  """Returns scores with ties and defects, as (image, value, mask), some of which overlap."""
  rng = np.random.default_rng(0)
  score = rng.standard_normal(SHAPE)
  defects = []
  for image in range(4):
    for value in rng.integers(1, 4, rng.integers(1, 4)):
      mask = np.zeros(SHAPE[1:], bool)
      y, x, h, w = rng.integers(2, 16, 4)
      mask[y : y + h, x : x + w] = True
      score[image] += mask
      defects.append((image, int(value), mask))
  return (20 + score.round(2)).astype(np.float32), defects


def main(checkout: str) -> None:
  """Evaluates and writes."""
  sys.path.insert(0, checkout)
  for name in ("tifffile", "tqdm"):  # imported there, not needed for this
    sys.modules.setdefault(name, types.ModuleType(name))
  sys.modules["tqdm"].tqdm = lambda x, **_: x  # type: ignore[attr-defined]
  from metric.mvtec3d import au_pro
  from metric.mvtec_loco.src import aggregation, image, util

  score, defects = draw()
  configs = {v: image.DefectConfig(str(v), v, s, relative) for v, s, relative in CONFIG}
  truth: list[Any] = []
  given = []  # absolute ones as they are, for it is ours to see that they are above the area
  for i in range(len(score)):
    own = [image.GroundTruthChannel(m, configs[v]) for k, v, m in defects if k == i]
    for c in own:
      known = c.defect_config.saturation_threshold
      given.append(int(c.get_saturation_area() if c.defect_config.relative_saturation else known))
    truth.append(image.GroundTruthMap(own) if own else None)
  maps = [image.AnomalyMap(s.astype(np.float64)) for s in score]
  scores = np.unique(score.astype(np.float64))
  every = [scores[-1] + 1, *((scores[1:] + scores[:-1]) / 2)[::-1], scores[0] - 1]
  curve = aggregation.MetricsAggregator(truth, maps)
  curve._refinement_callback(every)
  exact = curve.threshold_metrics
  np.random.seed(0)  # it draws some of its thresholds
  usual = aggregation.MetricsAggregator(truth, maps).run(curve_max_distance=0.001)
  out = {}
  for name, c in (("exact", exact), ("usual", usual)):
    fpr, spro = c.get_fp_rates(), c.get_mean_spros()
    out[name] = [util.get_auc_for_max_fpr(fpr, spro, limit) for limit in LIMITS]
  masks = np.zeros(SHAPE, bool)
  for k, _, mask in defects:
    masks[k] |= mask
  pro, _ = au_pro.calculate_au_pro(list(masks), list(score), num_thresholds=100)
  np.savez_compressed(
    HERE / "spro.npz",
    score=score,
    image=np.array([k for k, *_ in defects]),
    mask=np.stack([m for *_, m in defects]),
    saturation=np.array(given),
    limits=np.array(LIMITS),
    pro=pro,
    **out,
  )


if __name__ == "__main__":
  main(sys.argv[1])
