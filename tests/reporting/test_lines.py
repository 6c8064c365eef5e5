"""Entries: which lines count, what follows from them, and how sure a mean is."""

import itertools

import numpy as np
import pytest

from imiad_jax.reporting import lines
from tests.reporting.drawn import auroc, continual, line


def test_an_older_version_and_a_failed_run_do_not_count():
  rs = [
    line("unsupervised", "padim", "a", {"image_auroc": 0.1}, version="9"),
    line("unsupervised", "padim", "b", {"image_auroc": 0.2}, version="10"),
    line("unsupervised", "spade", "a", {"image_auroc": 0.3}, version="9"),
    line("unsupervised", "spade", "b", {}) | {"rows": [], "error": "broken"},
  ]
  assert lines.present(rs) == rs[1:3]


def test_of_equal_runs_the_latest_counts():
  old = line("unsupervised", "padim", "a", {"image_auroc": 0.1}, time="2026-01-01T00:00:00Z")
  new = line("unsupervised", "padim", "a", {"image_auroc": 0.2}, time="2026-01-02T00:00:00Z")
  new["versions"] = {"method": "1", "data": "other"}
  assert lines.present([new, old]) == [new]


def test_a_method_is_named_as_its_file_does_and_its_variants_by_what_varies():
  found = lines.entries(
    [
      *auroc("noisy", "patchcore", [0.5], own={"reweight": 1, "size": 224}),
      *auroc("noisy", "patchcore", [0.6], own={"reweight": 9, "size": 224}),
      *auroc("noisy", "no_such_method", [0.5], own={"size": 32}),
      *auroc("unsupervised", "patchcore", [0.7], own={"reweight": 1, "size": 224}),
    ]
  )
  names = ["PatchCore (reweight=1)", "PatchCore (reweight=9)", "no_such_method", "PatchCore"]
  assert [e.variant for e in found] == names
  assert lines.best(found[:3], "image_auroc") == [found[1]]
  assert lines.best(found, "image_ap") == []


def test_forgetting_of_categories_is_the_papers_on_average():
  # a: 0.9, 0.7, 0.8 lost 0.1; b: 0.8, 0.5 lost 0.3; c: the last task counts as 0.
  found = lines.entries([continual("padim", [[0.9], [0.7, 0.8], [0.8, 0.5, 0.6]])])
  assert [e.category for e in found] == ["mvtec_ad/a", "mvtec_ad/b", "mvtec_ad/c"]
  np.testing.assert_allclose([e.values["fm_image_auroc"] for e in found], [0.1, 0.3, 0])
  assert lines.mean(found, "fm_image_auroc").value == pytest.approx(0.4 / 3)


def test_logical_and_structural_kinds():
  kinds = {k: {"auroc": v} for k, v in [("missing", 0.9), ("extra", 0.7), ("hole", 0.5)]}
  (e,) = lines.entries([line("unsupervised", "padim", "tray", {"kinds": kinds})])
  names = ("image_auroc_logical", "image_auroc_structural", "image_auroc_mean")
  assert [e.values[n] for n in names] == pytest.approx([0.8, 0.5, 0.65])
  (e,) = lines.entries(
    [line("unsupervised", "padim", "bottle", {"kinds": {"hole": {"auroc": 1.0}}})]
  )
  assert not e.values


def test_mean_weighs_categories_alike_and_spreads_over_seeds():
  values = [("a", 0, 0.9), ("a", 1, 0.7), ("b", 0, 0.5), ("b", 1, 0.5)]
  found = lines.entries(
    [line("unsupervised", "padim", c, {"image_auroc": v}, seed=s) for c, s, v in values]
  )
  mean = lines.mean(found, "image_auroc")
  # Seeds: (0.9 + 0.5) / 2 and (0.7 + 0.5) / 2, 0.1 apart.
  assert (mean.value, mean.spread) == (pytest.approx(0.65), pytest.approx(0.1 / np.sqrt(2)))
  assert mean.count == (2, 2)
  # Without b's second seed b's mean stands in for it.
  assert lines.mean(found[:3], "image_auroc").value == pytest.approx(0.65)
  assert lines.mean(found, "pixel_ap") is None


def test_one_run_has_neither_spread_nor_interval():
  (e,) = lines.entries(auroc("unsupervised", "padim", [0.5]))
  assert lines.mean([e], "image_auroc") == lines.Mean(0.5, None, None, (1, 1))


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (3, 3)])
def test_interval_is_that_of_every_resample(shape):
  values = np.random.default_rng(1).uniform(0.5, 1, shape)
  every = [
    values[np.ix_(c, s)].mean()
    for c in itertools.product(range(shape[0]), repeat=shape[0])
    for s in itertools.product(range(shape[1]), repeat=shape[1])
  ]
  found = lines.interval(values, resamples=20_000)
  # The 2.5th percentile of 20,000 draws is off by about as much as 0.1 percent of rank moves it.
  for value, q in zip(found, (0.025, 0.975), strict=True):
    assert np.quantile(every, q - 0.01) <= value <= np.quantile(every, q + 0.01)


def test_interval_covers_the_truth():
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(100):
    effect = rng.normal(0, 0.05, (15, 1)) + rng.normal(0, 0.01, (15, 3))
    low, high = lines.interval(0.8 + effect, resamples=300)
    hits += low <= 0.8 <= high
  assert hits >= 85  # of 95 intended; below 85 with a chance of less than 1 in 10,000
