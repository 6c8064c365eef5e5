"""The metrics against scikit-learn, against a slow PRO that one can see is right, and by hand."""

import itertools
import json
import os
import subprocess
import sys
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from imiad_jax import metrics, parallel

SHAPE = (6, 8, 8)  # one shape, so that little is compiled; 4 devices do not divide it
CLOSE = {"rel": 0, "abs": 1e-12}


def slow_pro(score, region, limit):
  """The definition: a threshold at every distinct score, a loop over them, a trapezoid."""
  masks = [(i, region[i] == k) for i in range(len(region)) for k in np.unique(region[i]) if k > 0]
  points = [(0.0, 0.0)]
  for threshold in np.unique(score)[::-1]:
    hit = score >= threshold
    covered = np.mean([hit[i][mask].mean() for i, mask in masks])
    points.append((hit[region == 0].mean(), covered))
  points.append((1.0, 1.0))
  area = 0.0
  for (x0, y0), (x1, y1) in itertools.pairwise(points):
    if x1 > limit:
      y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
      x1 = limit
    area += (x1 - x0) * (y0 + y1) / 2
    if x1 == limit:
      break
  return area / limit


def best_f1(label, score):
  """The highest F1 in scikit-learn's curve, and the largest threshold that has it."""
  precision, recall, threshold = precision_recall_curve(label, score)
  with np.errstate(invalid="ignore"):
    f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1]
  return f1.max(), threshold[f1 >= f1.max() - 1e-12].max()


def reference(score, region, valid, limit):
  score, region = score[valid].astype(np.float64), region[valid]
  label = region.reshape(-1) > 0
  if label.all() or not label.any():
    return {}
  return {
    "auroc": roc_auc_score(label, score.reshape(-1)),
    "ap": average_precision_score(label, score.reshape(-1)),
    "pro": slow_pro(score, region, limit),
  }


def draw_scores(rng, kind):
  noise = rng.standard_normal(SHAPE)
  scales = np.array([1e-12, -1e-12, 1, -1, 1e4, -1e4])
  return {
    "distinct": noise,
    "few": rng.integers(0, 4, SHAPE),
    "two": rng.integers(0, 2, SHAPE),
    "constant": np.full(SHAPE, -3.25),
    "large": 1e4 + noise,
    "small": 1e-12 * noise,
    "mixed": noise.round(1) * rng.choice(scales, SHAPE),
    "zeros": rng.choice([-0.0, 0.0, 1.0, -1.0], SHAPE),
    "subnormal": 1e-45 * rng.integers(-3, 4, SHAPE),
    "jump": rng.choice([0, 1], SHAPE, p=[0.4, 0.6]),  # a threshold's FPR of 0.6 is above the limit
  }[kind].astype(np.float32)


def draw_regions(rng, kind):
  ids = rng.integers(1, 6, SHAPE)
  one = np.zeros(SHAPE)
  one[tuple(rng.integers(0, SHAPE))] = 1
  image = np.zeros(SHAPE)
  image[rng.integers(len(image))] = 1
  return {
    "none": np.zeros(SHAPE),
    "all": ids,
    "all but one": ids * (1 - one),
    "pixel": one,
    "image": image,
    "few": ids * (rng.random(SHAPE) < 0.05),
    "many": np.where(rng.random(SHAPE) < 0.5, np.arange(64).reshape(8, 8), 0),
    "far ids": one * (2**31 - 1) + (1 - one) * (rng.random(SHAPE) < 0.1) * 70000,
  }[kind].astype(np.int32)


SCORES = "distinct few two constant large small mixed zeros subnormal jump".split()
REGIONS = ["none", "all", "all but one", "pixel", "image", "few", "many", "far ids"]
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@quick
@given(
  seeds,
  st.sampled_from(SCORES),
  st.sampled_from(REGIONS),
  st.sampled_from([0.0, 0.3]),
  st.sampled_from([0.01, 0.05, 0.3, 0.6, 1.0]),
)
def test_pixel_metrics_are_those_of_the_references(seed, scores, regions, invalid, limit):
  rng = np.random.default_rng(seed)
  score, region = draw_scores(rng, scores), draw_regions(rng, regions)
  valid = rng.random(len(score)) >= invalid
  ours = metrics.pixel(score, region, valid, limit)
  assert ours == pytest.approx(reference(score, region, valid, limit), **CLOSE)


@quick
@given(seeds, st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_any_finite_values_with_ties(seed, values):
  rng = np.random.default_rng(seed)
  score = rng.choice(np.asarray(values, np.float32), SHAPE)
  region, valid = draw_regions(rng, "few"), np.ones(len(score), bool)
  ours = metrics.pixel(score, region, valid)
  assert ours == pytest.approx(reference(score, region, valid, 0.3), **CLOSE)


@quick
@given(seeds, st.sampled_from([1, 2, 7, 8, 13]), st.sampled_from(SCORES))
def test_binary_metrics_are_those_of_scikit_learn(seed, n, scores):
  rng = np.random.default_rng(seed)
  score, label = draw_scores(rng, scores).reshape(-1)[:n], rng.integers(0, 2, n)
  valid = rng.random(n) < 0.9
  expected = reference(score[:, None, None], label[:, None, None], valid, 1.0)
  expected.pop("pro", None)
  assert metrics.binary(score, label, valid) == pytest.approx(expected, **CLOSE)


@quick
@given(seeds, st.sampled_from(SCORES), st.sampled_from(["pixel", "few", "many", "all but one"]))
def test_the_threshold_is_the_largest_with_the_best_f1(seed, scores, regions):
  rng = np.random.default_rng(seed)
  score, region = draw_scores(rng, scores), draw_regions(rng, regions)
  values = metrics.pixel(score, region, np.ones(len(score), bool), f1=True)
  f1, threshold = best_f1(region.reshape(-1) > 0, score.reshape(-1).astype(np.float64))
  assert values["f1max"] == pytest.approx(f1, **CLOSE)
  assert values["threshold"] == threshold
  hit = score >= values["threshold"]
  by_hand = 2 * np.sum(hit & (region > 0)) / (np.sum(hit) + np.sum(region > 0))
  assert values["f1max"] == by_hand


def test_f1_is_left_out_unless_asked_for():
  score, region, valid = example()
  assert set(metrics.pixel(score, region, valid)) == {"auroc", "ap", "pro"}
  image, label = score[:, 0, 0], np.arange(6) % 2
  assert set(metrics.binary(image, label, valid)) == {"auroc", "ap"}
  values = metrics.pixel(score, region, valid, f1=True)
  assert set(values) == {"auroc", "ap", "f1max", "threshold", "pro"}
  values = metrics.binary(image, label, valid, f1=True)
  assert set(values) == {"auroc", "ap", "f1max", "threshold"}


def example(seed=0, scores="few", regions="many"):
  rng = np.random.default_rng(seed)
  return draw_scores(rng, scores), draw_regions(rng, regions), np.ones(SHAPE[0], bool)


def test_keys_are_absent_without_both_classes():
  score, region, valid = example()
  assert metrics.pixel(score, 0 * region, valid) == {}
  assert metrics.pixel(score, 0 * region + 1, valid) == {}
  assert metrics.pixel(score, region, ~valid) == {}
  assert metrics.pixel(score[:0], region[:0], valid[:0]) == {}
  image, ones = score[:, 0, 0], np.ones(len(score), int)
  assert metrics.binary(image, ones, valid) == {}
  assert metrics.binary(image, 0 * ones, valid) == {}
  assert metrics.binary(image, ones, ~valid) == {}
  assert metrics.binary(image[:0], ones[:0], valid[:0]) == {}


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 3e38])
def test_invalid_rows_do_not_matter(junk):
  score, region, valid = example()
  expected = metrics.pixel(score[1:5], region[1:5], valid[1:5])
  score[[0, 5]], valid[[0, 5]] = junk, False
  assert metrics.pixel(score, region, valid) == pytest.approx(expected, **CLOSE)
  label = np.arange(len(score)) % 2
  expected = metrics.binary(score[1:5, 0, 0], label[1:5], valid[1:5])
  assert metrics.binary(score[:, 0, 0], label, valid) == pytest.approx(expected, **CLOSE)


def test_scores_that_are_not_finite_are_refused():
  score, region, valid = example()
  score[3, 1, 1:3], score[5, 0, 0], score[0], valid[0] = np.nan, -np.inf, np.nan, False
  with pytest.raises(ValueError, match=r"^3 scores are not finite, the first of them in image 3"):
    metrics.pixel(score, region, valid)
  with pytest.raises(ValueError, match=r"^3 scores are not finite"):
    metrics.pixel(score, 0 * region, valid)
  with pytest.raises(ValueError, match=r"^1 scores are not finite, the first of them in image 5"):
    metrics.binary(score[:, 0, 0], np.arange(6) % 2, valid)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5])
def test_limits_outside_of_0_to_1_are_refused(limit):
  with pytest.raises(ValueError, match="limit"):
    metrics.pixel(*example(), limit)


@pytest.mark.parametrize("scores", SCORES)
def test_only_the_order_of_the_scores_matters(scores):
  score, region, valid = example(1, scores)
  _, rank = np.unique(score, return_inverse=True)
  ranks = rank.reshape(SHAPE).astype(np.float32) - 100
  assert metrics.pixel(score, region, valid) == metrics.pixel(ranks, region, valid)


def test_the_order_of_the_images_does_not_matter():
  score, region, valid = example(2, "mixed", "few")
  valid[1] = False
  order = np.random.default_rng(3).permutation(len(score))
  shuffled = metrics.pixel(score[order], region[order], valid[order])
  assert shuffled == pytest.approx(metrics.pixel(score, region, valid), **CLOSE)


def test_arrays_may_lie_anywhere():
  n = 2 * parallel.count()
  score, region = np.resize(example()[0], (n, 8, 8)), np.resize(example()[1], (n, 8, 8))
  valid, label = np.arange(n) != 1, np.arange(n) // 2 % 2
  expected = metrics.pixel(score, region, valid)
  streamed = metrics.pixel(score, region, valid, budget=0)
  for put in (jnp.asarray, parallel.shard, parallel.replicate):
    assert metrics.pixel(put(score), region, valid) == expected
    assert metrics.pixel(put(score), put(region), put(valid)) == expected
    assert metrics.pixel(put(score), put(region), put(valid), budget=0) == streamed
    image = metrics.binary(put(score[:, 0, 0]), put(label), put(valid))
    assert image == metrics.binary(score[:, 0, 0], label, valid)


@pytest.mark.parametrize("budget", [0, 10**9])
def test_a_hundred_ties_at_the_limit(budget):
  score, region = np.zeros((1, 40, 26), np.float32), np.zeros((1, 40, 26), np.int32)
  flat, region.reshape(-1)[:40] = score.reshape(-1), np.repeat([1, 2], 20)
  flat[:10], flat[10:20], flat[20:40] = (
    3,
    2,
    2,
  )  # half of region 1 before the ties, the rest in them
  flat[40:290], flat[290:390] = 2.5, 2  # of 1,000 normal pixels: FPR 0.25 before, 0.35 after
  # 1/4 up to 0.25, then a straight line to 1 at 0.35, of which the limit is the middle
  pro = (0.3 / 4 + 0.05 * (5 / 8 - 1 / 4) / 2) / 0.3
  values = metrics.pixel(score, region, np.ones(1, bool), budget=budget)
  assert values["pro"] == pytest.approx(pro, **CLOSE)
  assert values == pytest.approx(values | reference(score, region, np.ones(1, bool), 0.3), **CLOSE)


@pytest.mark.parametrize("regions", [1, 3, 7, 49])
def test_nothing_is_above_1(regions):
  region = np.zeros((regions, 16, 16), np.int32)
  region[:, :7, :7] = (
    1 + np.arange(49).reshape(7, 7) % 3
  )  # 1/16 and 1/17 do not add up to 1 exactly
  score, valid = (region > 0).astype(np.float32) + 20, np.ones(regions, bool)
  for budget in (0, 10**9):
    values = metrics.pixel(score, region, valid, f1=True, budget=budget)
    for k in ("auroc", "ap", "f1max", "pro"):
      assert 1 - 1e-12 < values[k] <= 1


def test_counts_above_the_range_of_float32():
  score, region = np.zeros((5, 2048, 2048), np.float32), np.zeros((5, 2048, 2048), np.uint8)
  score[:4], score[4, 0, 0] = 2, 2  # h normal pixels with 2, the others with 0
  region[4, 1024:1536] = 1  # one half of it lies below and one above the normal pixels with 2
  region[4, 1536:] = 2  # tied with them
  score[4, 1024:1280], score[4, 1280:1536], score[4, 1536:] = 1, 3, 2
  h, n1, n0 = 2**24 + 1, 1024 * 2048, score.size - 1024 * 2048
  tied, limit = Fraction(h, n0), Fraction(3, 10)  # the FPR after the threshold 2
  auroc = Fraction(1, 4) * (1 - tied) + Fraction(1, 2) * (1 - tied / 2) + Fraction(1, 4)
  ap = (Fraction(n1, n1 + h) + 2 * Fraction(3 * n1, 3 * n1 + 4 * h) + 1) / 4
  pro = Fraction(1, 2) * limit / tied / 2 + Fraction(1, 4)
  values = metrics.pixel(score, region, np.ones(5, bool), f1=True)
  f1 = {3: Fraction(n1 // 2, n1 + n1 // 4), 1: Fraction(2 * n1, 2 * n1 + h)}
  f1[2] = Fraction(3 * n1 // 2, n1 + 3 * n1 // 4 + h)
  best = max(f1, key=lambda threshold: f1[threshold])
  exact = {"auroc": auroc, "ap": ap, "pro": pro, "f1max": f1[best], "threshold": best}
  exact = {k: float(v) for k, v in exact.items()}
  assert values == pytest.approx(exact, rel=0, abs=1e-14)


def on_devices(count):
  """Starts a process with some host devices that prints the values of `fixed_cases`."""
  flags = f"--xla_force_host_platform_device_count={count}"
  env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen([sys.executable, __file__], env=env, stdout=subprocess.PIPE, text=True)


def fixed_cases():
  """Returns what every kind of scores gives, with and without images that are not valid."""
  values = []
  for seed, scores in enumerate(SCORES):
    score, region, valid = example(seed, scores, "many" if seed % 2 else "few")
    valid[0] = seed % 3 > 0
    values.append(metrics.pixel(score, region, valid, f1=True))
    values.append(metrics.binary(score[:, 0, 0], np.arange(6) % 2, valid, f1=True))
    defects = [[(image > 0, 20)] if image.any() else [] for image in region]
    values.append(metrics.spro(score, defects, valid))
    values.append(metrics.pixel(score, region, valid, f1=True, budget=0))
  return [parallel.count(), values]


def test_the_number_of_devices_does_not_matter():
  processes = {count: on_devices(count) for count in (1, 3, 4)}
  try:
    out = {count: json.loads(p.communicate(timeout=60)[0]) for count, p in processes.items()}
  finally:
    for p in processes.values():
      p.kill()
  assert {count: devices for count, (devices, _) in out.items()} == {1: 1, 3: 3, 4: 4}
  assert all(values for values in out[1][1])
  for more in (out[3][1], out[4][1]):
    for ours, one in zip(more, out[1][1], strict=True):
      streamed = "pro_error" in one  # its weights are summed on each device
      assert ours == (pytest.approx(one, **CLOSE) if streamed else one)


def test_forgetting_by_hand():
  nan = np.nan
  matrix = np.array([[0.9, nan, nan], [0.95, 0.8, nan], [0.7, 0.85, 0.6]])
  assert metrics.forgetting(matrix) == pytest.approx((0.2 / 2, 0.2 / 3))  # 0.25 and -0.05
  assert metrics.forgetting(matrix[:2, :2]) == pytest.approx((-0.05, -0.025))
  assert metrics.forgetting(matrix[:1, :1]) is None


def test_forgetting_needs_every_value():
  with pytest.raises(ValueError, match="finite"):
    metrics.forgetting(np.array([[0.9, np.nan], [np.nan, 0.8]]))


if __name__ == "__main__":
  print(json.dumps(fixed_cases()))
