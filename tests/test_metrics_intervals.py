"""Intervals of the bootstrap, against a slow bootstrap and a known case; metrics of each kind."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from imiad_jax import metrics


def draw(rng, n0, n1, shift=1.0):
  score = np.concatenate([rng.standard_normal(n0), shift + rng.standard_normal(n1)])
  label = np.repeat([0, 1], [n0, n1])
  order = rng.permutation(n0 + n1)
  return score[order].astype(np.float32), label[order], np.ones(n0 + n1, bool)


@pytest.mark.parametrize("ties", [False, True])
def test_a_slow_bootstrap_gives_the_same(ties):
  rng = np.random.default_rng(0)
  score, label, valid = draw(rng, 60, 30)
  score = score.round(0) if ties else score
  slow = []
  for _ in range(1500):
    rows = [rng.choice(np.flatnonzero(label == k), (label == k).sum()) for k in (0, 1)]
    rows = np.concatenate(rows)
    slow.append((roc_auc_score(label[rows], score[rows]),))
    slow[-1] += (average_precision_score(label[rows], score[rows]),)
  expected = np.quantile(slow, [0.025, 0.975], axis=0)
  ours = metrics.intervals(score, label, valid, resamples=20000)
  for k, (low, high) in enumerate(expected.T):
    # The ends of 1,500 resamples have a standard error of about 2 % of the width of the interval.
    assert ours[("auroc", "ap")[k]] == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_interval_covers_what_it_should():
  rng = np.random.default_rng(1)
  truth, runs = norm.cdf(1 / np.sqrt(2)), 300
  inside = 0
  for seed in range(runs):
    low, high = metrics.intervals(*draw(rng, 60, 60), seed=seed, resamples=400)["auroc"]
    inside += low <= truth <= high
  # 95 % wanted; a percentile interval of 60 + 60 images is slightly narrow, and the standard error
  # of 300 runs is 1.3 %.
  assert 0.90 <= inside / runs <= 0.985


def test_only_seed_and_valid_rows_matter():
  score, label, valid = draw(np.random.default_rng(2), 20, 9)
  ours = metrics.intervals(score, label, valid, seed=3)
  assert ours == metrics.intervals(score, label, valid, seed=3)
  assert ours != metrics.intervals(score, label, valid, seed=4)
  junk = np.append(score, np.float32(np.nan)), np.append(label, 1), np.append(valid, False)
  assert metrics.intervals(*junk, seed=3) == ours
  assert metrics.intervals(np.exp(score), label, valid, seed=3) == ours
  values = metrics.binary(score, label, valid)
  for k, (low, high) in ours.items():
    assert 0 <= low < values[k] < high <= 1


def test_edges_of_intervals():
  score, label, valid = draw(np.random.default_rng(2), 20, 1, shift=100.0)
  for ends in metrics.intervals(score, label, valid).values():
    assert ends == pytest.approx((1, 1), abs=1e-6)
  assert metrics.intervals(score, 0 * label, valid) == {}
  assert metrics.intervals(score, label, ~valid) == {}
  score[0] = np.inf
  with pytest.raises(ValueError, match="1 scores are not finite"):
    metrics.intervals(score, label, valid)
  for bad in ({"resamples": 0}, {"level": 1.0}):
    with pytest.raises(ValueError, match="level"):
      metrics.intervals(score, label, valid, **bad)


def test_each_kind_against_all_good_images():
  rng = np.random.default_rng(5)
  kind = rng.choice(["good", "crack", "scratch", "unseen"], 50)
  score = rng.standard_normal(50).round(1).astype(np.float32)
  valid = (kind != "unseen") & (rng.random(50) < 0.9)
  values = metrics.per_kind(score, kind, valid)
  assert list(values) == ["crack", "scratch"]
  for name, found in values.items():
    rows = valid & np.isin(kind, ["good", name])
    label, own = kind[rows] == name, score[rows].astype(np.float64)
    assert found["auroc"] == pytest.approx(roc_auc_score(label, own), abs=1e-12)
    assert found["ap"] == pytest.approx(average_precision_score(label, own), abs=1e-12)
    assert set(found) == {"auroc", "ap"}
  assert metrics.per_kind(score, kind, kind != "good") == {}
  with pytest.raises(ValueError, match="49 kinds for 50"):
    metrics.per_kind(score, list(kind[1:]), valid)
