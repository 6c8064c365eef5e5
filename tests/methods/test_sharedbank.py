"""The shared bank keeps to its rows whatever comes, and asks the task that an image is of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import engine
from imiad_jax.errors import UserError
from imiad_jax.heads import knn, patches
from imiad_jax.methods import patchcore, sharedbank
from imiad_jax.types import Run
from tests import pictures
from tests.methods.common import (
  assert_refused,
  batch,
  first_state,
  jitted,
  kw,
  learnt,
  method,
)

TINY = {"dim": 12, "ratio": 0.25, "rows": 40}


def after(tasks: int, **more):
  """The State after so many tasks of four images each, drawn anew for each."""
  update, finish, _ = jitted("sharedbank")
  state = first_state("sharedbank", tasks=3, **more)
  for task in range(tasks):
    state = finish(update(state, batch("sharedbank", range(4), seed=task))[0])
  return state


def test_all_tasks_share_the_rows_equally_and_none_is_lost_before():
  sizes = []
  for tasks in (1, 2, 3):
    state = after(tasks)
    owner = np.asarray(state.owner)
    sizes.append([int((owner == t).sum()) for t in range(tasks)])
    for t in range(tasks):  # what stays of each was picked first
      ranks = np.sort(np.asarray(state.rank)[owner == t])
      np.testing.assert_array_equal(ranks, np.arange(len(ranks)))
  picked = int(after(1).counts[0])  # a quarter of four images' patches
  assert picked == 16 and sizes == [[16], [16, 16], [14, 13, 13]]


def test_what_stays_is_what_a_smaller_coreset_would_be():
  whole, state = after(1), after(3)
  first, mine = np.asarray(whole.owner) == 0, np.asarray(state.owner) == 0
  picked = np.asarray(whole.bank)[first][np.argsort(np.asarray(whole.rank)[first])]
  kept = np.asarray(state.bank)[mine][np.argsort(np.asarray(state.rank)[mine])]
  np.testing.assert_array_equal(kept, picked[:14])


def test_with_one_task_the_scores_are_those_of_patchcore():
  given = kw("sharedbank")
  same = {k: given[k] for k in ("backbone", "stages", "size", "dim", "ratio", "batch")}
  tested = batch("sharedbank", range(10, 14))
  mine = method("sharedbank").score(learnt("sharedbank"), tested)
  other = patchcore.Model(**same).score(learnt("sharedbank").one, tested)
  for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5)  # one matrix product, fused in two ways


def test_an_image_is_scored_by_the_bank_that_it_is_nearest_to():
  state = after(3)
  tested = batch("sharedbank", range(4), seed=1)  # what the second task learnt
  cells = patches.embed([tested.features[s] for s in kw("sharedbank")["stages"]], 12)
  flat = np.asarray(cells).reshape(4, -1, 12)
  bank, owner = np.asarray(state.bank), np.asarray(state.owner)
  squared = np.square(flat[:, :, None] - bank).sum(-1)
  each = np.stack([squared[:, :, owner == t].min(-1) for t in range(3)], -1)
  chosen = each.mean(1).argmin(-1)
  want = each[np.arange(4), :, chosen].max(-1)
  assert (chosen == 1).sum() >= 3 and (want > each.min(-1).max(-1) + 1e-3).any()
  found = jitted("sharedbank")[2](state, tested).image
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_distances_to_each_group_are_those_to_its_rows():
  rng = np.random.default_rng(0)
  query, bank = (jnp.asarray(rng.normal(size=(n, 5)), jnp.float32) for n in (7, 9))
  owner = jnp.asarray([0, 2, 2, -1, 0, 0, -1, 2, 0])
  found = knn.nearest_of_each(query, bank, owner, 4)
  for group in (0, 2):
    want = knn.nearest(query, bank, owner == group)
    np.testing.assert_allclose(found[:, group], want, rtol=1e-6)
  assert np.isinf(found[:, [1, 3]]).all()


@pytest.mark.parametrize("routing", sharedbank.ROUTINGS)
def test_earlier_categories_are_still_found(routing):
  store = pictures.Store(tasks=2, bad=8)
  given = kw("sharedbank", size=64, routing=routing)
  run = Run("pictures", ("c0", "c1"), "continual", {}, "sharedbank", given, 0)
  last = list(engine.run(run, store))[-2:]
  assert [o.category for o in last] == ["c0", "c1"]
  assert min(o.metrics["image_auroc"] for o in last) > 0.9


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"routing": "oracle"}, {"ratio": 0.0}])
def test_what_makes_no_sense_is_refused(wrong):
  assert_refused("sharedbank", wrong)


def test_fewer_rows_than_tasks_are_refused():
  store = pictures.Store(tasks=2)
  run = Run("pictures", ("c0", "c1"), "continual", {}, "sharedbank", kw("sharedbank", rows=1), 0)
  with pytest.raises((UserError, ValueError), match="rows"):
    list(engine.run(run, store))
