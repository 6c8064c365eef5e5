"""The loops keep test data away from learning, and give the same numbers however they are cut."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import engine, parallel, plugins, training
from imiad_jax.errors import UserError
from imiad_jax.lessons import Memory
from imiad_jax.methods import padim
from imiad_jax.types import Method, Run, Scores
from tests import pictures

PADIM = plugins.resolve(
  "padim", padim.Model, {"backbone": "efficientnet_lite0", "size": 32, "batch": 4, "dim": 10}
)
SEEN = "imiad_jax.methods.padim"  # a module whose Model the tests replace


def spy(
  monkeypatch, score=None, epochs=1, seen=None, update=None, supervised=False, shape=None, **needs
):
  """Replaces a method by one that adds up what it is given."""

  def add(state, batch):
    if seen is not None:
      jax.debug.callback(
        lambda *x: seen.append(x), batch.image, batch.row, batch.valid, batch.label
      )
    return state + jnp.sum(batch.image * batch.valid[:, None, None, None]), {}

  def mean(state, batch):
    return Scores(jnp.mean(batch.image, (1, 2, 3)) + 0 * state, None)

  def factory(**kw):
    del kw
    init = lambda key, spec, pretrained: jnp.zeros(shape(spec) if shape else ())  # noqa: E731
    finish = lambda state: state  # noqa: E731
    functions = (init, update or add, finish, score or mean)
    return Method(*functions, "efficientnet_lite0", (), 16, 4, epochs, supervised, **needs)

  monkeypatch.setattr(SEEN + ".Model", factory)
  training._build.cache_clear()


@pytest.fixture(autouse=True)
def _fresh():
  yield
  training._build.cache_clear()


def run(store, setting="unsupervised", categories=("c0",), seed=0):
  what = Run("pictures", categories, setting, {}, "padim", {}, seed)
  return list(engine.run(what, store))


def test_every_training_row_is_learnt_once_an_epoch_and_nothing_else(monkeypatch):
  seen = []
  spy(monkeypatch, epochs=3, seen=seen)
  store = pictures.Store(train=10)
  run(store)
  jax.effects_barrier()
  train = store.pixels(store.index.rows("c0", "train"), 16).image / np.float32(255)
  rows = np.concatenate([r[v] for _, r, v, _ in seen])
  assert sorted(rows) == sorted(list(range(10)) * 3)
  assert len(seen) == 9  # three batches of four for ten rows, each epoch
  for image, row, valid, label in seen:
    np.testing.assert_allclose(image[valid], train[row[valid]], atol=1e-6)
    assert (row[~valid] == parallel.room(10)).all() and (label[valid] == 0).all()
  orders = [tuple(np.concatenate([r[v] for _, r, v, _ in seen[k : k + 3]])) for k in (0, 3, 6)]
  assert len(set(orders)) == 3  # shuffled anew


def test_tasks_of_few_and_of_more_images_share_what_is_compiled(monkeypatch):
  spy(monkeypatch)
  for train in (2, 10, 80):
    run(pictures.Store(train=train))
  epoch: Any = training.build("padim", {}).epoch
  assert epoch._cache_size() == 1


def test_so_do_those_whose_state_has_rows_where_there_are_several_passes(monkeypatch):
  for epochs, compiled in ((1, 2), (2, 1)):
    score = lambda state, batch: Scores(jnp.mean(batch.image, (1, 2, 3)), None)  # noqa: E731
    spy(monkeypatch, score, epochs, shape=lambda spec: spec.max_train)
    for train in (2, 10):
      run(pictures.Store(train=train))
    epoch: Any = training.build("padim", {}).epoch
    assert epoch._cache_size() == compiled


def test_a_supervised_method_shares_what_is_compiled_with_and_without_masks(monkeypatch):
  spy(monkeypatch, supervised=True)
  store = pictures.Store(bad=8)
  for setting, kw in (("unsupervised", {}), ("fully_supervised", {"anomalies": 3})):
    list(engine.run(Run("pictures", ("c0",), setting, kw, "padim", {}, 0), store))
  epoch: Any = training.build("padim", {}).epoch
  assert epoch._cache_size() == 1


def test_a_marked_test_image_never_reaches_update(monkeypatch):
  seen = []
  spy(monkeypatch, epochs=2, seen=seen)
  store = pictures.Store(tasks=2)
  marker = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
  draw = store._draw

  def planted(row, size):
    image, region = draw(row, size)
    return (marker, region) if store.index.split[row] == "test" else (image, region)

  store._draw = planted
  outcomes = run(store, "continual", ("c0", "c1"))
  jax.effects_barrier()
  assert seen and outcomes
  learnt = np.concatenate([image for image, *_ in seen])
  assert not (np.abs(learnt - marker / np.float32(255)).max(axis=(1, 2, 3)) < 1e-3).any()
  np.testing.assert_allclose(outcomes[0].scores.image, marker.mean() / 255, rtol=1e-5)


def told(monkeypatch, supervised, setting, setting_kw, tasks=1):
  """Runs a spy; returns the store and (images, labels, regions) of all rows it learnt."""
  seen = []

  def update(state, batch):
    jax.debug.callback(
      lambda *x: seen.append(x), batch.image, batch.label, batch.region, batch.valid
    )
    return state, {}

  spy(monkeypatch, update=update, supervised=supervised)
  store = pictures.Store(tasks=tasks, bad=8)
  group = tuple(f"c{i}" for i in range(tasks))
  what = Run("pictures", group, setting, setting_kw, "padim", {}, 0)
  outcomes = list(engine.run(what, store))
  jax.effects_barrier()
  columns = [np.concatenate([x[k][x[3]] for x in seen]) for k in range(3)]
  return store, outcomes, *columns


def test_labels_and_masks_are_told_to_a_supervised_method(monkeypatch):
  kw = {"anomalies": 3}
  store, outcomes, image, label, region = told(monkeypatch, True, "fully_supervised", kw)
  assert len(label) == 12 + 3 and label.sum() == 3
  assert (region.any(axis=(1, 2)) == label).all()
  (outcome,) = outcomes
  assert len(outcome.rows) == 5 + 8 - 3
  tested = store.pixels(outcome.rows, 16).image / np.float32(255)
  assert np.abs(image[:, None] - tested[None]).max(axis=(2, 3, 4)).min() > 0.01


def test_an_unsupervised_method_learns_only_what_is_told_normal(monkeypatch):
  kw = {"anomalies": 3}
  _, outcomes, _, label, region = told(monkeypatch, False, "fully_supervised", kw)
  assert len(label) == 12 and not label.any() and not region.any()
  assert len(outcomes[0].rows) == 5 + 8 - 3


def test_noise_is_learnt_as_normal(monkeypatch):
  store, outcomes, image, label, region = told(monkeypatch, False, "noisy", {"ratio": 0.2})
  assert len(label) == 12 + 2 and not label.any() and not region.any()
  added = np.setdiff1d(store.index.rows("c0", "test"), outcomes[0].rows)
  poison = store.pixels(added, 16).image / np.float32(255)
  found = np.abs(image[:, None] - poison[None]).max(axis=(2, 3, 4)).min(axis=0)
  assert len(added) == 2 and (found < 1e-6).all()


def test_views_are_learnt_with_their_images(monkeypatch):
  kw = {"shots": 2, "view": "flip"}
  store, _, image, _, _ = told(monkeypatch, False, "few_shot", kw)
  assert len(image) == 2 * 5
  few = plugins.load("settings", "few_shot").tasks(store.index, ("c0",), 0, **kw)[0].train
  for x in store.pixels(few, 16).image / np.float32(255):
    for view in (x, x[:, ::-1], x[::-1], x[::-1, ::-1]):
      assert np.abs(image - view).max(axis=(1, 2, 3)).min() < 1e-6


def test_one_model_of_all_classes_is_tested_on_each(monkeypatch):
  _, outcomes, image, _, _ = told(monkeypatch, False, "unsupervised", {}, tasks=3)
  assert len(image) == 36 and [o.category for o in outcomes] == ["c0", "c1", "c2"]
  assert {o.learnt for o in outcomes} == {0}


def test_scoring_is_told_nothing(monkeypatch):
  def score(state, batch):
    return Scores(batch.label + batch.row + jnp.mean(batch.image, (1, 2, 3)) + 0 * state, None)

  spy(monkeypatch, score)
  store = pictures.Store()
  (outcome,) = run(store)
  mean = store.pixels(outcome.rows, 16).image.mean(axis=(1, 2, 3)) / 255
  np.testing.assert_allclose(outcome.scores.image, mean - 2, rtol=1e-4)


def test_scores_that_are_not_finite_end_the_run(monkeypatch):
  def score(state, batch):
    return Scores(jnp.mean(batch.image, (1, 2, 3)) / state * jnp.nan, None)

  spy(monkeypatch, score)
  with pytest.raises(engine.Failed, match="image scores of 10 of 10 images of c0 are not finite"):
    run(pictures.Store())


def test_order_depends_on_the_seed_alone(monkeypatch):
  orders = {}
  for seed, again in [(0, 0), (0, 1), (1, 0)]:
    seen = []
    spy(monkeypatch, seen=seen)
    run(pictures.Store(), seed=seed)
    jax.effects_barrier()
    orders[seed, again] = [r[v].tolist() for _, r, v, _ in seen]
  assert orders[0, 0] == orders[0, 1] != orders[1, 0]


@pytest.mark.parametrize("setting_kw", [{"shots": 6}, {"shots": 2, "view": "rotation"}])
def test_batches_sent_one_by_one_teach_what_resident_ones_do(monkeypatch, setting_kw):
  what = Run("pictures", ("c0",), "few_shot", setting_kw, "padim", PADIM, 0)
  resident = list(engine.run(what, pictures.Store()))
  monkeypatch.setattr(training, "RESIDENT", 0)
  sent = list(engine.run(what, pictures.Store()))
  for a, b in zip(resident, sent, strict=True):
    np.testing.assert_allclose(a.scores.pixel, b.scores.pixel, rtol=1e-4)


@pytest.mark.parametrize("room", [training.RESIDENT, 0])
@pytest.mark.parametrize("setting", ["unsupervised", "few_shot", "noisy", "continual"])
def test_replicas_are_the_runs_of_their_seeds(monkeypatch, setting, room):
  monkeypatch.setattr(training, "RESIDENT", room)
  store = pictures.Store(tasks=2, bad=8)
  group = ("c0", "c1") if setting == "continual" else ("c0",)
  kw = {"shots": 6} if setting == "few_shot" else {}
  runs = [Run("pictures", group, setting, kw, "padim", PADIM, seed) for seed in (3, 5, 4)]
  together: list[list[engine.Outcome]] = [[], [], []]
  for r, outcome in engine.together(runs, store):
    together[r].append(outcome)
  for what, outcomes in zip(runs, together, strict=True):
    for alone, outcome in zip(engine.run(what, store), outcomes, strict=True):
      assert (alone.rows == outcome.rows).all() and alone.learnt == outcome.learnt
      np.testing.assert_allclose(alone.scores.pixel, outcome.scores.pixel, rtol=2e-3)


def lines(memory, seen, hooks=engine._NOTHING, **kw):
  """Runs replicas of a spy; returns how many batches were learnt and the outcomes."""
  setting = kw.pop("setting", "unsupervised")
  seeds, group = kw.pop("seeds", (0,)), kw.pop("categories", ("c0",))
  runs = [Run("pictures", group, setting, kw, "padim", {}, seed) for seed in seeds]
  seen.clear()
  store = pictures.Store(tasks=2, bad=8)
  outcomes = [o for _, o in engine.together(runs, store, hooks, memory)]
  jax.effects_barrier()
  return len(seen), outcomes


def test_what_was_learnt_last_is_not_learnt_again(monkeypatch):
  def score(state, batch):
    return Scores(jnp.mean(batch.image, (1, 2, 3)) + state, None)

  seen, memory, told = [], Memory(), []
  spy(monkeypatch, score, epochs=2, seen=seen)
  hooks = engine.Hooks(epoch=lambda *x: told.append(x[:2]))
  count, (first,) = lines(memory, seen, hooks)
  assert count == 6 and told == [(0, 1), (0, 2)]
  again, (second,) = lines(memory, seen, hooks, setting="fully_supervised", anomalies=3)
  assert again == 0 and told == [(0, 1), (0, 2)] * 2
  assert second.seconds["learn"] == first.seconds["learn"] > 0
  alone, (expected,) = lines(None, seen, setting="fully_supervised", anomalies=3)
  assert alone == 6 and len(second.rows) == len(first.rows) - 3
  np.testing.assert_array_equal(second.scores.image, expected.scores.image)
  np.testing.assert_array_equal(second.rows, expected.rows)
  others = ({"seeds": (1,)}, {"seeds": (0, 1)}, {"categories": ("c1",)}, {"setting": "noisy"})
  for other in others:
    lines(memory, seen)
    assert lines(memory, seen, **other)[0] > 0


def test_continual_begins_with_what_was_learnt_alone(monkeypatch):
  def score(state, batch):
    return Scores(jnp.mean(batch.image, (1, 2, 3)) + state, None)

  def both(memory):
    return lines(memory, seen, setting="continual", categories=("c0", "c1"))

  seen, memory = [], Memory()
  spy(monkeypatch, score, seen=seen)
  assert lines(memory, seen)[0] == 3
  count, outcomes = both(memory)
  alone, expected = both(None)
  assert count == 3 and alone == 6 and len(outcomes) == len(expected) == 3
  for outcome, other in zip(outcomes, expected, strict=True):
    assert (outcome.learnt, outcome.category) == (other.learnt, other.category)
    np.testing.assert_array_equal(outcome.scores.image, other.scores.image)
  both(memory)  # what was learnt alone is still as it was then
  assert lines(memory, seen, setting="fully_supervised", anomalies=3)[0] == 0
  assert lines(memory, seen, setting="continual", categories=("c1", "c0"))[0] == 6


def test_what_is_told_of_labels_or_sized_by_tasks_is_learnt_anew(monkeypatch):
  seen, memory = [], Memory()
  spy(
    monkeypatch,
    lambda state, batch: Scores(batch.image[:, 0, 0, 0], None),
    shape=lambda spec: spec.num_tasks,
    seen=seen,
  )
  lines(memory, seen)
  assert lines(memory, seen, setting="continual", categories=("c0", "c1"))[0] == 6
  spy(monkeypatch, seen=seen, supervised=True)
  lines(memory, seen)
  assert lines(memory, seen, setting="fully_supervised", anomalies=3)[0] == 4


def test_the_other_categories_are_learnt_once_and_are_part_of_what_learning_took(monkeypatch):
  def score(state, batch):
    return Scores(jnp.mean(batch.image, (1, 2, 3)) + state, None)

  spy(monkeypatch, score, seen=(seen := []), supervised=True, needs_others=True)
  memory, told = Memory(), []
  hooks = engine.Hooks(epoch=lambda *x: told.append(x[:2]))
  count, (first,) = lines(memory, seen, hooks)
  assert count == 6 and told == [(0, 1), (1, 1)] and first.seconds["learn"] > 0
  again, (same,) = lines(memory, seen, hooks)
  assert again == 0 and told == [(0, 1), (1, 1)] * 2
  assert same.seconds["learn"] == first.seconds["learn"]
  for _ in range(2):  # the State after the other categories is still there
    few, (third,) = lines(memory, seen, hooks, setting="few_shot", shots=4)
    assert few == 1 and told[-2:] == [(0, 1), (1, 1)]
    memory._kept = dict(list(memory._kept.items())[:1])
  alone, (expected,) = lines(None, seen, setting="few_shot", shots=4)
  assert alone == 3 + 1
  np.testing.assert_array_equal(third.scores.image, expected.scores.image)


def test_replicas_differ_by_their_seeds_alone():
  runs = [Run("pictures", (c,), "unsupervised", {}, "padim", PADIM, 0) for c in ("c0", "c1")]
  with pytest.raises(UserError, match="differ by their seeds"):
    list(engine.together(runs, pictures.Store(tasks=2)))


SCRIPT = """
import jax, json, sys
from imiad_jax import engine, parallel, plugins
from imiad_jax.methods import padim
from imiad_jax.types import Run
from tests import pictures
kw = plugins.resolve("padim", padim.Model,
                     padim.SMALL | {"backbone": "efficientnet_lite0", "size": 64})
run = Run("pictures", ("c0", "c1"), "continual", {}, "padim", kw, 0)
out = [o.metrics for o in engine.run(run, pictures.Store(tasks=2))]
print(json.dumps([jax.device_count(), out]))
"""


def test_four_devices_give_the_numbers_of_one():
  said = []
  for count in (1, 4):
    flags = f"--xla_force_host_platform_device_count={count}"
    done = subprocess.run(
      [sys.executable, "-c", SCRIPT],
      env=os.environ | {"XLA_FLAGS": flags},
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    assert done.returncode == 0, done.stderr
    said.append(json.loads(done.stdout))
  assert [devices for devices, _ in said] == [1, 4]
  for one, four in zip(said[0][1], said[1][1], strict=True):
    assert one.keys() == four.keys()
    kinds = one.pop("kinds"), four.pop("kinds")
    assert kinds[0].keys() == kinds[1].keys() == {"blot"}
    for key in one:
      assert one[key] == pytest.approx(four[key], rel=1e-4, abs=1e-6)


def test_features_of_an_unknown_stage_are_refused():
  kw = {"backbone": "efficientnet_lite0", "stages": ["layer2", "layer9"], "size": 32}
  kw = plugins.resolve("patchcore", plugins.load("methods", "patchcore").Model, kw)
  what = Run("pictures", ("c0",), "unsupervised", {}, "patchcore", kw, 0)
  with pytest.raises(UserError, match='no stage of efficientnet_lite0 "layer9"'):
    list(engine.run(what, pictures.Store()))


def test_small_configs_name_hyperparameters_that_exist():
  for name in plugins.names("methods"):
    module = plugins.load("methods", name)
    plugins.resolve(name, module.Model, module.SMALL)


def test_a_method_that_needs_anomalies_is_refused_where_none_are_told(monkeypatch):
  spy(monkeypatch, supervised=True, needs_anomalies=True)
  with pytest.raises(UserError, match="unsupervised tells none; take fully_supervised"):
    run(pictures.Store())
  assert run(pictures.Store(), setting="fully_supervised")


def test_a_method_that_needs_others_learns_them_first_each_told_its_number(monkeypatch):
  seen = []
  spy(monkeypatch, seen=seen, supervised=True, needs_others=True)
  store = pictures.Store(tasks=3, train=4)
  outcomes = run(store, categories=("c1",))
  jax.effects_barrier()
  assert [(o.learnt, o.task, o.category) for o in outcomes] == [(0, 0, "c1")]
  pixels = {
    image.tobytes(): store.index.category[row]
    for row in np.flatnonzero(store.index.split == "train")
    for image in store.pixels(np.array([row]), 16).image
  }
  told = [
    (pixels[np.round(255 * x).astype(np.uint8).tobytes()], int(label))
    for image, _, valid, labels in seen
    for x, label in zip(image[valid], labels[valid], strict=True)
  ]
  assert sorted(told[:8]) == [("c0", 0)] * 4 + [("c2", 1)] * 4
  assert told[8:] == [("c1", 0)] * 4
  with pytest.raises(UserError, match="pictures has no others"):
    run(store, setting="continual", categories=("c0", "c1", "c2"))
