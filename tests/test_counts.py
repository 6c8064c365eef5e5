"""The official counts: they add up to the published totals, and differences are told in full."""

from collections import Counter

import pytest
from imiad_jax.datasets.common import counts

from imiad_jax import plugins


@pytest.mark.parametrize(
  ("name", "totals"),
  [
    ("mvtec_ad", (3629, 467, 1258)),
    ("mvtec_loco", (1772, 575, 993)),
    ("mpdd", (888, 176, 282)),
    ("btad", (1799, 451, 290)),
    ("mtd", (762, 190, 392)),
    ("visa", (8659, 962, 1200)),
    ("dagm", (7004, 6996, 1054)),
  ],
)
def test_official_counts_add_up(name, totals):
  cls = plugins.load("datasets", name).Builder
  assert set(cls.COUNTS) == set(cls.CATEGORIES)
  sums = Counter()
  for parts in cls.COUNTS.values():
    for part, n in parts.items():
      sums[part if part.endswith("/good") else "defective"] += n
  assert (sums["train/good"], sums["test/good"], sums["defective"]) == totals


def test_nothing_is_said_of_the_right_counts():
  rows = [("a", "train", "good")] * 2 + [("a", "test", "hole")]
  assert counts.described({"a": counts.usual(2, 0, 1)}, rows) == ""
  assert counts.described({"a": counts.usual(2, 1, 1), "b": {"test": 1}}, rows).splitlines() == [
    "category  part       expected  found",
    "a         test/good  1         0",
    "absent: b",
  ]
