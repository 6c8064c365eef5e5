"""PatchCore: its bank, what the bank knows, and the numbers of the authors' code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import features
from imiad_jax.heads import coreset, patches
from imiad_jax.methods import patchcore
from tests.methods.common import (
  assert_refused,
  batch,
  close,
  kw,
  seeded_batch,
  seeded_spec,
  spec,
)
from tests.parity import seeded

TINY = {"ratio": 0.1}  # of a hundredth, one hidden defect would take all rows

STORED = Path(__file__).parents[1] / "parity" / "patchcore.npz"
GRIDS = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


def patchcore_state(ratio: float, tasks: int = 1, append: bool = True, seeds=(0,)):
  m = patchcore.Model(**kw("patchcore", ratio=ratio, append=append))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("patchcore", tasks=tasks), params)
  for seed in seeds:
    for first in (0, 4):
      state, _ = m.update(state, batch("patchcore", range(first, first + 4), seed=seed))
    state = m.finish(state)
  return m, state


def test_a_bank_of_everything_knows_every_training_image_to_the_last_row():
  m, state = patchcore_state(ratio=1.0)
  scores = m.score(state, batch("patchcore", [0, 3, 7]))
  typical = float(jnp.median(jnp.sum(jnp.square(state.bank), -1)))
  assert float(jnp.abs(scores.pixel).max()) < 1e-5 * typical
  assert float(m.score(state, batch("patchcore", [9])).image[0]) > 1e-2 * typical


def test_a_coreset_knows_its_own_rows_and_has_the_promised_size():
  _, state = patchcore_state(ratio=0.25)
  h, w, _ = spec("patchcore").shape("layer2")
  assert int(state.used.sum()) == int(0.25 * 8 * h * w)
  everything = patchcore_state(ratio=1.0)[1].bank[0]
  kept = np.asarray(state.bank[state.used])
  assert all((np.abs(everything - row).max(-1) == 0).any() for row in kept)


def test_appending_never_raises_a_score():
  m, one = patchcore_state(0.25, tasks=2, seeds=(0,))
  _, two = patchcore_state(0.25, tasks=2, seeds=(0, 1))
  rows = batch("patchcore", range(10, 14))
  assert (m.score(two, rows).image <= m.score(one, rows).image).all()


def test_replacing_forgets_what_appending_keeps():
  known = batch("patchcore", [0, 1])
  kept, replaced = (
    m.score(state, known).image
    for m, state in (patchcore_state(1.0, 2, append, (0, 1)) for append in (True, False))
  )
  assert (100 * kept < replaced).all()


def test_a_full_buffer_becomes_a_coreset_of_all_images_so_far(monkeypatch):
  # A bank of at most 64 rows, a buffer of one batch: eight images are selected in two rounds.
  h, w, _ = spec("patchcore").shape("layer2")
  more = {"ratio": 1.0, "dim": 4096, "memory": 1, "projection": 8}
  m = patchcore.Model(**kw("patchcore", **more))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("patchcore", tasks=1), params)
  assert len(state.buffer) == 4 and state.bank.shape == (1, 64, 4096)
  for first in (0, 4):
    state, _ = m.update(state, batch("patchcore", range(first, first + 4)))
  assert int(state.waiting) == 4 and int(state.used.sum()) == min(64, 4 * h * w)
  state = m.finish(state)
  assert int(state.used.sum()) == min(64, 8 * h * w)
  whole = patchcore.Model(**kw("patchcore", **more | {"memory": 4096}))
  full = whole.init(jax.random.key(0), spec("patchcore", tasks=1), params)
  for first in (0, 4):
    full, _ = whole.update(full, batch("patchcore", range(first, first + 4)))
  everything = np.asarray(whole.finish(full).bank[0])
  kept = np.asarray(state.bank[0])
  origin = np.abs(everything[:, None] - kept[None]).max(-1).argmin(0)
  np.testing.assert_array_equal(everything[origin], kept)
  assert len(np.unique(origin)) == len(kept)
  images = np.unique(origin // (h * w))
  assert images.max() > 3 and images.min() < 4  # of both rounds


def test_a_new_task_does_not_keep_rows_of_the_last_one_in_its_rounds():
  more = {"ratio": 1.0, "dim": 4096, "memory": 1, "projection": 8, "append": False}
  m = patchcore.Model(**kw("patchcore", **more))
  params = features.backbone("efficientnet_lite0").params
  state = m.init(jax.random.key(0), spec("patchcore", tasks=2), params)
  for seed in (0, 1):
    for first in (0, 4):
      state, _ = m.update(state, batch("patchcore", range(first, first + 4), seed=seed))
    state = m.finish(state)
  new = patchcore.Model(**kw("patchcore", **more | {"memory": 4096}))
  only = new.init(jax.random.key(0), spec("patchcore", tasks=2), params)
  for first in (0, 4):
    only, _ = new.update(only, batch("patchcore", range(first, first + 4), seed=1))
  everything, kept = np.asarray(new.finish(only).bank[0]), np.asarray(state.bank[0])
  assert np.abs(everything[:, None] - kept[None]).max(-1).min(0).max() == 0


def test_reweighting_is_equation_7():
  rng = np.random.default_rng(0)
  patch, bank = rng.normal(size=(3, 6)), rng.normal(size=(20, 6))
  got = patchcore.reweighted(
    jnp.asarray(patch, jnp.float32), jnp.asarray(bank, jnp.float32), jnp.ones(20, bool), 4
  )
  for q, value in zip(patch, got, strict=True):
    distance = np.linalg.norm(bank - q, axis=1)
    star = np.argmin(distance)
    around = np.argsort(np.linalg.norm(bank - bank[star], axis=1))[:4]
    weight = 1 - np.exp(distance[star]) / np.exp(distance[around]).sum()
    np.testing.assert_allclose(value, weight * distance[star], rtol=1e-4)


def test_reweighting_with_fewer_rows_than_neighbours():
  bank = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
  used = jnp.arange(5) < 2
  got = patchcore.reweighted(bank[2:4], bank, used, 9)
  few = patchcore.reweighted(bank[2:4], bank[:2], jnp.ones(2, bool), 2)
  np.testing.assert_allclose(got, few, rtol=1e-5)


def test_the_coreset_covers_better_than_chance():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 8)), jnp.float32)
  valid = jnp.ones(400, bool)
  start = coreset.start(jax.random.key(0), x, valid, 10)
  picks = coreset.greedy(x, start, valid, jnp.int32(40), 40)

  def radius(chosen):
    return float(jnp.sqrt(((x[:, None] - x[None, chosen]) ** 2).sum(-1)).min(1).max())

  assert radius(picks) < radius(jnp.arange(40))


def test_bank_scores_and_map_are_those_of_the_authors_code():
  everything = 6 * 8 * 8  # patches: selection starts from all, so that none are drawn
  m = patchcore.Model("any", size=32, dim=12, ratio=0.25, start_points=everything)
  state = m.init(jax.random.key(0), seeded_spec(GRIDS, 32, 6), None)
  for number in (0, 1):
    state, _ = m.update(state, seeded_batch(GRIDS, number, 3, 32))
  state = m.finish(state)
  scores = m.score(state, seeded_batch(GRIDS, 2, 3, 32))
  with np.load(STORED) as stored:
    embedding = patches.embed(list(seeded_batch(GRIDS, 0, 3, 32).features.values()), 12)
    close(seeded.sample(embedding), stored["embedding"])
    close(state.bank[0], stored["bank"])  # the same rows in the same order
    close(scores.image, stored["image"])
    close(seeded.sample(scores.pixel), stored["map"])


@pytest.mark.parametrize(
  "wrong",
  [
    {"ratio": 2.0},
    {"ratio": 0.0},
    {"dim": 0},
    {"stages": ()},
    {"reweight": 0},
    {"sigma": 0.0},
    {"memory": 0},
    {"stages": ("embedding",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("patchcore", wrong)
