"""A setting chooses rows: never one both to learn and to test, whatever the index looks like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imiad_jax import config, data, engine, plugins
from imiad_jax.errors import UserError
from imiad_jax.types import Index
from tests import layouts

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


KW = {  # parameters that every index of the tests can bear
  "few_shot": st.fixed_dictionaries({"shots": st.just(1), "view": st.just("rotation")}),
  "noisy": st.fixed_dictionaries(
    {
      "ratio": st.sampled_from([0.05, 0.2, 0.9]),
      "reading": st.sampled_from(["of_normal", "of_all"]),
    }
  ),
  "fully_supervised": st.fixed_dictionaries(
    {"anomalies": st.integers(1, 10), "kinds": st.integers(0, 2)}
  ),
}


@pytest.mark.parametrize("multi_class", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=60, deadline=None)
@given(index=indices(), seed=st.integers(0, 5), drawn=st.data())
def test_nothing_is_both_learnt_and_tested(name, multi_class, index, seed, drawn):
  kw = drawn.draw(KW.get(name, st.just({})))
  setting = plugins.load("settings", name)
  known = tuple(np.unique(index.category).tolist())
  met = []
  groups = setting.runs(known, multi_class)
  assert len(groups) == (1 if multi_class or name == "continual" else len(known))
  for group in groups:
    tasks = setting.tasks(index, group, seed, **kw)
    learnt = np.concatenate([t.train for t in tasks])
    tested = np.concatenate([rows for t in tasks for rows in t.tests.values()])
    assert not set(learnt) & set(tested)
    assert len(set(learnt)) == len(learnt) and len(set(tested)) == len(tested)
    # What is not learnt of the test split is tested, all of it.
    test = np.flatnonzero((index.split == "test") & np.isin(index.category, group))
    assert set(test) == set(tested) | (set(learnt) & set(test))
    for task in tasks:
      met += task.tests
      assert set(index.category[task.train]) <= set(task.tests)
      assert all((index.category[rows] == c).all() for c, rows in task.tests.items())
      assert len(task.label) == len(task.train)
      told = index.label[task.train] if name == "fully_supervised" else 0 * task.train
      assert (task.label == told).all() and task.masks == (name == "fully_supervised")
    again = setting.tasks(index, group, seed, **kw)
    assert all((a.train == b.train).all() for a, b in zip(tasks, again, strict=True))
  assert sorted(met) == sorted(known)


# Where other seeds draw other rows. DAGM's tiny layout has one defective image a category, and 75 %
# of one is none.
ALL = {"few_shot", "noisy", "fully_supervised"}
DRAWN = dict.fromkeys(plugins.names("datasets"), ALL) | {"dagm": {"few_shot"}}


@pytest.mark.parametrize("dataset", [n for n in plugins.names("datasets") if not config.drawn(n)])
def test_every_layout_goes_through_every_setting(dataset, tmp_path):
  root = layouts.write(dataset, tmp_path)
  index, _ = data.open(dataset, str(root), str(tmp_path / "prepared"))
  for name in SETTINGS:
    setting, draws = plugins.load("settings", name), set()
    for seed in range(4):
      kw = {"few_shot": {"shots": 1}, "noisy": {"ratio": 0.5}}.get(name, {})
      groups = setting.runs(engine.categories(index), False)
      tasks = [t for group in groups for t in setting.tasks(index, group, seed, **kw)]
      learnt = np.concatenate([t.train for t in tasks])
      tested = np.concatenate([rows for t in tasks for rows in t.tests.values()])
      assert len(learnt) and len(tested) and not set(learnt) & set(tested)
      assert set(index.split[tested]) == {"test"} and "validation" not in index.split[learnt]
      told = np.concatenate([t.label for t in tasks])
      assert (told == (index.label[learnt] if name == "fully_supervised" else 0)).all()
      draws.add(tuple(sorted(learnt.tolist())))
    assert (len(draws) > 1) == (name in DRAWN[dataset])


def index_of(train=20, bad=16, category="a"):
  """An index with 4 good test images and `bad` anomalous ones of two kinds."""
  kinds = [("train", "good")] * train + [("test", "good")] * 4
  kinds += [("test", "xy"[i % 2]) for i in range(bad)]
  split, kind = map(np.array, zip(*kinds, strict=True))
  name = np.array([f"{category}/{i:03d}" for i in range(len(kinds))])
  label = (kind != "good").astype(int)
  return Index(name, np.full(len(kinds), category), split, kind, label)


def tasks_of(name, index, seed=0, **kw):
  (task,) = plugins.load("settings", name).tasks(index, ("a",), seed, **kw)
  return task


def test_the_shots_of_fewer_are_among_those_of_more_and_seeds_differ():
  index = index_of()
  shots = {m: set(tasks_of("few_shot", index, shots=m).train) for m in (1, 2, 4, 8)}
  assert [len(s) for s in shots.values()] == [1, 2, 4, 8]
  assert shots[1] < shots[2] < shots[4] < shots[8]
  draws = {tuple(tasks_of("few_shot", index, seed=s, shots=4).train) for s in range(8)}
  assert len(draws) == 8


@pytest.mark.parametrize("name", ["few_shot", "noisy", "fully_supervised"])
def test_the_draw_depends_on_names_alone(name):
  index = index_of()
  order = np.concatenate([np.random.default_rng(1).permutation(20), 20 + np.arange(20)[::-1]])
  other = Index(*(column[order] for column in index))
  a, b = tasks_of(name, index), tasks_of(name, other)
  assert set(index.name[a.train]) == set(other.name[b.train])
  expected = {"few_shot": 4, "noisy": 22, "fully_supervised": 30}  # 0.1 x 20 = 2; 10 told
  assert len(a.train) == expected[name]


@pytest.mark.parametrize(
  ("ratio", "reading", "count"),
  [
    (0.05, "of_normal", 1),  # 0.05 x 20
    (0.2, "of_normal", 4),
    (0.2, "of_all", 5),  # 5 of 25 are a fifth
    (0.9, "of_normal", 12),  # 18 wanted, but 75 % of 16 is 12
  ],
)
def test_noise_is_counted_as_its_reading_says_and_capped(ratio, reading, count):
  index = index_of()
  task = tasks_of("noisy", index, ratio=ratio, reading=reading)
  added = task.train[index.split[task.train] == "test"]
  assert len(added) == count and index.label[added].all() and not task.label.any()
  assert not set(added) & set(task.tests["a"]) and len(task.tests["a"]) == 20 - count
  more = tasks_of("noisy", index, ratio=ratio, reading=reading, overlap=True)
  assert set(more.train) == set(task.train) and len(more.tests["a"]) == 20


def test_less_noise_is_part_of_more():
  index = index_of()
  sets = [set(tasks_of("noisy", index, ratio=r).train) for r in (0.05, 0.1, 0.2)]
  assert sets[0] < sets[1] < sets[2]


def test_told_anomalies_are_drawn_over_all_kinds():
  index = index_of(bad=40)
  kinds = [set(index.kind[tasks_of("fully_supervised", index, seed=s).train]) for s in range(5)]
  assert all(k == {"good", "x", "y"} for k in kinds)


def test_unsupervised_is_a_run_for_each_category_and_continual_one_in_the_order_given():
  assert plugins.load("settings", "unsupervised").runs(("b", "a"), False) == [("b",), ("a",)]
  continual = plugins.load("settings", "continual")
  assert continual.runs(("b", "a"), False) == [("b", "a")]
  column = np.array(["a", "b"])
  index = Index(column, column, np.array(["train"] * 2), np.array(["good"] * 2), np.zeros(2, int))
  assert [t.name for t in continual.tasks(index, ("b", "a"), 0)] == ["b", "a"]


def test_kinds_that_are_not_told_are_tested_only():
  index, first = index_of(), set()
  for seed in range(8):
    one = tasks_of("fully_supervised", index, seed, anomalies=5, kinds=1)
    (told,) = set(index.kind[one.train[one.label == 1]])
    assert one.label.sum() == 5 and (index.kind[one.tests["a"]] != "good").sum() == 11
    first.add(told)
  assert first == {"x", "y"}
  most = tasks_of("fully_supervised", index, anomalies=10, kinds=1)
  assert most.label.sum() == 6  # 75 % of the eight of that kind
  every = tasks_of("fully_supervised", index, kinds=2)
  np.testing.assert_array_equal(every.train, tasks_of("fully_supervised", index).train)


def test_continual_groups_categories_into_tasks():
  column = np.array(list("abcde"))
  index = Index(column, column, np.full(5, "train"), np.full(5, "good"), np.zeros(5, int))
  continual = plugins.load("settings", "continual")
  tasks = continual.tasks(index, tuple("edcba"), 0, sizes=(2, 3))
  assert [t.name for t in tasks] == ["e+d", "c+b+a"]
  assert [list(t.tests) for t in tasks] == [["e", "d"], ["c", "b", "a"]]
  assert [index.name[t.train].tolist() for t in tasks] == [["e", "d"], ["c", "b", "a"]]


@pytest.mark.parametrize(
  ("name", "kw", "said"),
  [
    ("few_shot", {"shots": 21}, "few_shot cannot learn 21 of 20 training images of a"),
    ("few_shot", {"shots": 0}, "few_shot cannot learn 0 of 20"),
    ("few_shot", {"view": "rotaton"}, 'no view "rotaton". Did you mean "rotation"'),
    ("noisy", {"ratio": 1.5}, "ratio between 0 and 1, not 1.5"),
    ("noisy", {"reading": "all"}, 'no reading of the ratio "all". Did you mean "of_all"'),
    ("fully_supervised", {"anomalies": 0}, "at least one anomaly, not 0"),
    ("fully_supervised", {"kinds": -1}, "of -1 kinds"),
    ("continual", {"sizes": (2,)}, "tasks of (2,) categories, but there are 1 categories: a"),
  ],
)
def test_what_cannot_be_is_refused(name, kw, said):
  with pytest.raises(UserError) as e:
    tasks_of(name, index_of(), **kw)
  assert said in str(e.value)
