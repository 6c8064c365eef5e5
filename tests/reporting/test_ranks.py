"""Ranks: the worked example of Demsar (JMLR 7, 2006), and sentences for each outcome."""

import numpy as np
import pytest
import scipy.stats

from imiad_jax.reporting import lines, ranks
from tests.reporting.drawn import auroc

METHODS = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
# Table 6: AUC of each on 14 data sets. The paper ranks its last cell of "voting" (0.975) behind the
# one before it, so that digits that it does not print must differ.
AUC = np.array(
  [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],
    [0.957, 0.978, 0.946, 0.970],
  ]
)


def test_mean_ranks_are_those_of_the_published_example():
  found = ranks.rank(AUC, METHODS, [str(i) for i in range(14)])
  assert found.methods == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
  np.testing.assert_allclose(found.ranks, [1.964, 2.000, 2.893, 3.143], atol=5e-4)
  assert found.test.critical == pytest.approx(1.25, abs=5e-3)


def test_friedman_is_that_of_the_published_example_but_for_ties():
  # Demsar's 9.28 does not correct for ties: one pair in three rows, all four in one.
  ties = 3 * (2**3 - 2) + (4**3 - 4)
  corrected = 9.28 / (1 - ties / (14 * 4 * (4**2 - 1)))
  expected = scipy.stats.chi2.sf(corrected, 3)
  found = ranks.rank(AUC, METHODS, [str(i) for i in range(14)])
  assert found.test.p == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
  ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (7, 2.949), (10, 3.164)]
)
def test_critical_values_are_those_of_the_published_table(k, q):
  # Table 5a. The critical difference is q where k (k + 1) = 6 N.
  assert ranks.critical(k, 1) * np.sqrt(6 / (k * (k + 1))) == pytest.approx(q, abs=1.5e-3)


def test_groups_that_do_not_differ():
  # As in figure 1a of Demsar: the two best differ from the worst, 1.25 apart.
  assert ranks.cliques([1.964, 2.000, 2.893, 3.143], 1.25) == [(0, 3)]


def test_groups_overlap_and_hold_no_smaller_ones():
  assert ranks.cliques([1.0, 2.0, 3.0, 4.0, 9.0], 2.5) == [(0, 2), (1, 3)]
  assert ranks.cliques([1.0, 5.0, 9.0], 2.0) == []


def spread(steps, n=12):
  """Lines of three methods whose values differ by `steps` in each of n categories."""
  rng = np.random.default_rng(0)
  base = rng.uniform(0.6, 0.8, n)
  names = ("patchcore", "padim", "spade")
  return [
    r
    for name, step in zip(names, steps, strict=True)
    for r in auroc("unsupervised", name, [float(b + step) for b in base])
  ]


def test_verdict_names_the_best_where_it_is_better_than_all():
  said = ranks.verdict(ranks.of(spread((0.2, 0.1, 0.0))))
  # Ranks 1, 2 and 3; q 2.343 x sqrt(3 x 4 / (6 x 12)) = 0.957.
  assert "PatchCore has the best mean rank, 1.0, and is significantly better than all" in said
  assert "critical difference is 1.0" in said


def test_verdict_names_those_that_are_as_good():
  rs = spread((0.1, 0.1, 0.0))
  rs[0]["rows"][0]["image_auroc"] += 0.01
  said = ranks.verdict(ranks.of(rs))
  assert "better than 1 of 2, but not than PaDiM" in said


def test_verdict_where_all_are_alike():
  said = ranks.verdict(ranks.of(spread((0.0, 0.0, 0.0))))
  assert "do not differ significantly" in said and "12 categories" in said


def test_too_few_data_are_refused_in_a_sentence():
  few = spread((0.2, 0.1, 0.0), n=4)
  for rs in (few, spread((0.2, 0.1, 0.0))[:24], []):
    assert "cannot be said" in ranks.verdict(ranks.of(rs))
    assert ranks.of(rs).test is None
  assert ranks.diagram(ranks.of(spread((0.2, 0.1, 0.0), n=1))) is None
  assert ranks.diagram(ranks.of([])) is None


def test_what_lacks_categories_is_left_out_and_seeds_are_averaged():
  rs = spread((0.2, 0.1, 0.0))
  rs += auroc("unsupervised", "stpm", [0.99] * 3)  # three of twelve
  rs += auroc("unsupervised", "spade", [1.0] * 12, seed=1)
  found = ranks.of(rs)
  assert len(found.categories) == 12
  # SPADE's mean of its old value below 0.8 and of 1 lies above or below PatchCore's.
  assert sorted(found.methods) == ["PaDiM", "PatchCore", "SPADE"]
  values, _, names = ranks.complete(lines.entries(rs), "image_auroc")
  spade = values[:, names.index("SPADE")]
  old = [r["rows"][0]["image_auroc"] for r in spread((0.2, 0.1, 0.0))[24:]]
  np.testing.assert_allclose(spade, (np.array(old) + 1) / 2)


def test_many_methods_on_too_few_categories_do_not_stand_in_the_way():
  names = ("cfa", "csflow", "cutpaste", "draem", "fastflow", "favae", "rd4ad", "stpm", "simplenet")
  rs = spread((0.2, 0.1, 0.0), n=8)  # 3 x 8 values; all 12 methods have 3 categories, 36 values
  rs += [r for m in names for r in auroc("unsupervised", m, [0.9] * 3)]
  assert len(ranks.of(rs).categories) == 8


def test_of_the_variants_of_a_method_the_best_counts():
  rs = spread((0.2, 0.1, 0.0))
  rs += auroc("unsupervised", "spade", [0.99] * 12, own={"size": 448})
  assert ranks.of(rs).methods[0] == "SPADE (size=448)"
