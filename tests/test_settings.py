"""A setting chooses rows: never one both to learn and to test, whatever the index looks like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imiad_jax import plugins
from imiad_jax.types import Index

SETTINGS = plugins.names("settings")


@st.composite
def indices(draw):
  """An index of up to four categories with any number of rows, sorted as TFDS stores them."""
  rows = []
  for category in "abcd"[: draw(st.integers(1, 4))]:
    kinds = [("train", "good")] * draw(st.integers(1, 9))
    kinds += [("test", "good")] * draw(st.integers(0, 5))
    kinds += [("test", kind) for kind in draw(st.lists(st.sampled_from("xyz"), max_size=6))]
    rows += [(f"{category}/{i}", category, *k) for i, k in enumerate(kinds)]
  rows.sort(key=lambda r: (r[2] != "train", r[0]))
  name, category, split, kind = map(np.array, zip(*rows, strict=True))
  return Index(name, category, split, kind, (kind != "good").astype(int))


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=60, deadline=None)
@given(index=indices(), seed=st.integers(0, 5))
def test_nothing_is_both_learnt_and_tested(name, index, seed):
  setting = plugins.load("settings", name)
  known = tuple(np.unique(index.category).tolist())
  met = []
  for group in setting.runs(known):
    tasks = setting.tasks(index, group, seed)
    learnt = np.concatenate([t.train for t in tasks])
    tested = np.concatenate([t.test for t in tasks])
    assert not set(learnt) & set(tested)
    assert len(set(learnt)) == len(learnt) and len(set(tested)) == len(tested)
    for task in tasks:
      met.append(task.name)
      assert (index.category[task.train] == task.name).all()
      assert (index.category[task.test] == task.name).all()
      assert len(task.label) == len(task.train)
      # Both settings learn the official train split and are told that it is normal.
      assert (index.split[task.train] == "train").all() and not task.label.any()
      assert len(task.test) == np.sum((index.category == task.name) & (index.split == "test"))
    again = setting.tasks(index, group, seed)
    assert all((a.train == b.train).all() for a, b in zip(tasks, again, strict=True))
  assert sorted(met) == sorted(known)


def test_unsupervised_is_a_run_for_each_category_and_continual_one_in_the_order_given():
  assert plugins.load("settings", "unsupervised").runs(("b", "a")) == [("b",), ("a",)]
  continual = plugins.load("settings", "continual")
  assert continual.runs(("b", "a")) == [("b", "a")]
  column = np.array(["a", "b"])
  index = Index(column, column, np.array(["train"] * 2), np.array(["good"] * 2), np.zeros(2, int))
  assert [t.name for t in continual.tasks(index, ("b", "a"), 0)] == ["b", "a"]
