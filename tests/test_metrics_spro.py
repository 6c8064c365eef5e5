"""Saturated PRO against a slow one that one can see is right, against PRO, and by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from imiad_jax import metrics
from tests.test_metrics import CLOSE, SCORES, SHAPE, draw_regions, draw_scores, quick, seeds

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


def slow_spro(score, defects, valid, limits):
  """The definition: a threshold at every distinct score, min(., 1) of each defect, a trapezoid."""
  chosen = [(s, d) for s, d, v in zip(score, defects, valid, strict=True) if v]
  normal = [~np.any([m for m, _ in d], axis=0) if d else np.ones(s.shape, bool) for s, d in chosen]
  points = [(0.0, 0.0)]
  for t in np.unique([s for s, _ in chosen])[::-1]:
    overlap = [
      min((s >= t)[mask].sum() / min(area, mask.sum()), 1) for s, d in chosen for mask, area in d
    ]
    false = sum((s >= t)[n].sum() for (s, _), n in zip(chosen, normal, strict=True))
    points.append((false / sum(n.sum() for n in normal), np.mean(overlap)))
  return {f"spro@{limit}": area(points, limit) / limit for limit in limits}


def area(points, limit):
  total = 0.0
  for (x0, y0), (x1, y1) in itertools.pairwise(points):
    if x0 < limit:
      end = min(x1, limit)
      y = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
      total += (end - x0) * (y0 + y) / 2
  return total


def draw_defects(rng, saturation):
  """Returns of each image up to three defects, rectangles that may overlap."""
  defects = []
  for _ in range(SHAPE[0]):
    defects.append([])
    for _ in range(rng.integers(0, 4)):
      mask = np.zeros(SHAPE[1:], bool)
      y, x = rng.integers(0, 6, 2)
      mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
      s = {"one": 1, "area": mask.sum(), "above": 1000}.get(saturation, rng.integers(1, 12))
      defects[-1].append((mask, int(s)))
  return defects


@quick
@given(seeds, st.sampled_from(SCORES), st.sampled_from(["one", "area", "above", "any"]))
def test_spro_is_that_of_the_reference(seed, scores, saturation):
  rng = np.random.default_rng(seed)
  score, defects = draw_scores(rng, scores), draw_defects(rng, saturation)
  valid = rng.random(len(score)) >= 0.2
  ours = metrics.spro(score, defects, valid)
  if any(d for d, v in zip(defects, valid, strict=True) if v):
    assert ours == pytest.approx(slow_spro(score, defects, valid, LIMITS), **CLOSE)
    assert max(ours.values()) <= 1
  else:
    assert ours == {}
  streamed = metrics.spro(score, defects, valid, budget=0)
  assert set(streamed) == set(ours) | {f"{k}_error" for k in ours}
  for k, v in ours.items():
    assert abs(streamed[k] - v) <= streamed[f"{k}_error"] + 1e-12


@pytest.mark.parametrize("saturation", ["area", "above"])
def test_saturation_at_the_area_is_pro(saturation):
  rng = np.random.default_rng(0)
  score, region = draw_scores(rng, "mixed"), draw_regions(rng, "few")
  valid = np.arange(len(score)) != 1
  defects = [[(image == k, 64) for k in np.unique(image) if k] for image in region]
  if saturation == "area":
    defects = [[(mask, int(mask.sum())) for mask, _ in d] for d in defects]
  ours = metrics.spro(score, defects, valid, limits=(0.3,))
  pro = metrics.pixel(score, region, valid)["pro"]
  assert ours == pytest.approx({"spro@0.3": pro}, **CLOSE)


def test_spro_is_that_of_mvtecs_own_code():
  with np.load(Path(__file__).parent / "parity" / "spro.npz") as file:
    theirs = dict(file)
  score = theirs["score"]
  defects = [[] for _ in score]
  for i, mask, saturation in zip(
    theirs["image"], theirs["mask"], theirs["saturation"], strict=True
  ):
    defects[i].append((mask, int(saturation)))
  valid = np.ones(len(score), bool)
  ours = metrics.spro(score, defects, valid, limits=tuple(theirs["limits"].tolist()))
  # Asked for a threshold between all scores, it has the same curve.
  np.testing.assert_allclose(list(ours.values()), theirs["exact"], rtol=0, atol=1e-12)
  # As it comes, two points of its curve may be 1e-3 apart.
  np.testing.assert_allclose(list(ours.values()), theirs["usual"], rtol=0, atol=1e-3)
  # Its PRO has 100 thresholds, so 30 below the limit, between which it draws straight lines.
  mask = [np.any([m for m, _ in d], axis=0) if d else np.zeros(score.shape[1:]) for d in defects]
  region = np.stack([ndimage.label(m, np.ones((3, 3)))[0] for m in mask]).astype(np.int32)
  assert metrics.pixel(score, region, valid)["pro"] == pytest.approx(theirs["pro"], abs=5e-3)


def test_by_hand():
  score = np.zeros((2, 2, 4), np.float32)
  score[0] = [[9, 8, 7, 5], [6, 5, 5, 0]]
  score[1] = [[8, 0, 0, 0], [0, 0, 0, 0]]
  left, right = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
  left[0, :3], right[:, 2:] = True, True  # they share the pixel with 7
  defects = [[(left, 2), (right, 1)], []]
  # 10 normal pixels: 8, 6, 5 and zeros. Left: half at 9, full at 8; right: full at 7.
  # Curve: (0, 1/4), (1/10, 1/2) at 8, (1/10, 1) at 7: a slope between the points, then 1.
  values = metrics.spro(score, defects, np.ones(2, bool), limits=(0.1, 1.0))
  first = (1 / 4 + 1 / 2) / 2
  assert values == pytest.approx({"spro@0.1": first, "spro@1.0": 0.1 * first + 0.9}, **CLOSE)


def test_loco_is_both_kinds_against_all_good_images():
  rng = np.random.default_rng(4)
  score, defects = draw_scores(rng, "distinct"), draw_defects(rng, "any")
  defects[0] = defects[3] = []
  kind = np.array(["good", "structural_anomalies", "logical_anomalies"] * 2)
  values = metrics.loco(score, defects, kind, np.ones(6, bool), limits=(0.05,))
  structural = metrics.spro(score, defects, kind != "logical_anomalies", limits=(0.05,))
  logical = metrics.spro(score, defects, kind != "structural_anomalies", limits=(0.05,))
  a, b = structural["spro@0.05"], logical["spro@0.05"]
  assert values == pytest.approx(
    {"spro@0.05_structural": a, "spro@0.05_logical": b, "spro@0.05": (a + b) / 2}, **CLOSE
  )
  only = metrics.loco(score, defects, kind, kind != "logical_anomalies", limits=(0.05,))
  assert only == {"spro@0.05_structural": a}
  with pytest.raises(ValueError, match="kinds are"):
    metrics.loco(score, defects, np.array(["bad"] * 6), np.ones(6, bool))


def test_what_is_refused():
  score, valid = np.zeros((2, 3, 4), np.float32), np.ones(2, bool)
  mask = np.zeros((3, 4), bool)
  mask[0] = True
  broken = {
    "with 0 pixels": [[(~mask & mask, 1)], []],
    "saturates at 0": [[(mask, 0)], []],
    r"bool\[4, 3\]": [[(mask.T, 1)], []],
    "uint8": [[(mask.astype(np.uint8), 1)], []],
    "of 1 images": [[(mask, 1)]],
  }
  for message, defects in broken.items():
    with pytest.raises(ValueError, match=message):
      metrics.spro(score, defects, valid)
  assert metrics.spro(score, broken["saturates at 0"], np.array([False, True])) == {}
  with pytest.raises(ValueError, match="limit"):
    metrics.spro(score, [[(mask, 1)], []], valid, limits=(0.1, 0.0))
  score[1, 0, 0] = np.nan
  for budget in (0, 1000):
    with pytest.raises(ValueError, match="1 scores are not finite"):
      metrics.spro(score, [[(mask, 1)], []], valid, budget=budget)


def test_defects_at_another_resolution():
  mask = np.zeros((8, 12), bool)
  mask[2:6, 2:8] = True
  dot = np.zeros((8, 12), bool)
  dot[0, 0] = True
  half, nothing = metrics.resize([[(mask, 12), (mask, 24), (mask, 100), (dot, 1)], []], 4, 6)
  assert nothing == []
  assert [s for _, s in half] == [3, 6, 6]
  expected = np.zeros((4, 6), bool)
  expected[1:3, 1:4] = True
  assert all((m == expected).all() for m, _ in half)
  same, _ = metrics.resize([[(mask, 12), (dot, 1)], []], 8, 12)
  assert [s for _, s in same] == [12, 1]
  assert (same[0][0] == mask).all()
  assert (same[1][0] == dot).all()
