"""SemiREST: residuals to neighbours within reach, labels of blocks, windows, and its epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import blocks, nearby, swin
from tests.methods.common import assert_refused, batch, first_state, jitted

TINY = {
  "dim": 16,
  "ratio": 0.2,
  "width": 8,
  "heads": 2,
  "depth": 2,
  "neighbours": 2,
  "sources": 4,
  "kept": 4,
  "sigma": 1.0,
  "epochs": 16,
  "lr": 1e-2,
}


def grids(n: int = 3):
  return jax.random.normal(jax.random.key(0), (n, 4, 4, 5))


def bank_of(x):
  """All features of some grids."""
  n, h, w, d = x.shape
  row, cell = jnp.divmod(jnp.arange(n * h * w), h * w)
  row, cell = row.astype(jnp.int32), cell.astype(jnp.int32)
  return nearby.Bank(x.reshape(-1, d), row, cell, jnp.ones(n * h * w, bool))


def squared(x, bank, found):
  near = bank.feature[found[..., 0]].reshape(x.shape)
  return np.sum(np.square(x - near), -1)


def test_a_known_feature_has_no_residual_but_of_other_images():
  x = grids()
  bank, nowhere = bank_of(x), jnp.full(3, -1)
  assert squared(x, bank, nearby.match(bank, x, nowhere, 0.0, 1)).max() == 0
  near = bank.feature[nearby.match(bank, x, nowhere, 1.0, 1)[..., 0]].reshape(x.shape)
  assert not np.asarray(nearby.residual(x, near)).any()
  found = nearby.match(bank, x, jnp.arange(3), 1.0, 1)[..., 0]
  assert (bank.row[found] != jnp.arange(3)[:, None]).all()


def test_neighbours_are_within_reach_and_never_farther_for_more_of_it():
  x = grids()
  bank, own = bank_of(x), jnp.arange(3)
  last = np.full((3, 4, 4), np.inf)
  for reach in (0.0, 0.25, 0.5, 1.0):
    found = nearby.match(bank, x, own, reach, 1)
    away = nearby.out_of_reach((4, 4), bank.cell, reach)
    assert not np.asarray(away)[np.arange(16), found[..., 0]].any()
    assert (squared(x, bank, found) <= last).all()
    last = squared(x, bank, found)
  flat = x.reshape(-1, 5)
  apart = np.sum(np.square(flat[:, None] - flat), -1)
  apart[np.arange(48)[:, None] // 16 == np.arange(48) // 16] = np.inf
  np.testing.assert_allclose(last.reshape(-1), apart.min(1), rtol=1e-4)


def test_a_later_neighbour_is_not_taken_from_out_of_reach():
  x = grids()
  bank = bank_of(x)
  found = nearby.match(bank, x, jnp.arange(3), 0.0, 3)
  # At its own position each cell has one feature in each of the two other images.
  assert (bank.cell[found] == jnp.arange(16)[:, None]).all()
  np.testing.assert_array_equal(found[..., 2], found[..., 0])
  assert (found[..., 1] != found[..., 0]).all()


def test_a_coreset_knows_where_its_features_come_from():
  x = jax.random.normal(jax.random.key(0), (3, 16, 5))
  select = jax.jit(nearby.select, static_argnums=(3, 4, 5))
  bank = select(jax.random.key(1), x, jnp.arange(3) < 2, 0.25, 12, 8)
  assert int(bank.used.sum()) == 8  # a quarter of two images
  used = np.asarray(bank.used)
  np.testing.assert_array_equal(x[bank.row, bank.cell][used], bank.feature[used])
  assert (np.asarray(bank.row)[used] < 2).all()


def test_labels_of_blocks_are_known_but_where_little_is_covered():
  mask = jnp.zeros((1, 8, 8), bool).at[0, :4, :4].set(True).at[0, 4, 4].set(True)
  anomalous, known = blocks.labelled(mask, (2, 2), 0.5)
  np.testing.assert_array_equal(anomalous[0], [[True, False], [False, False]])
  np.testing.assert_array_equal(known[0], [[True, True], [True, False]])
  assert blocks.labelled(mask, (2, 2), 1 / 16)[1].all()


def test_sharpened_probabilities_are_probabilities():
  q = jax.nn.softmax(jax.random.normal(jax.random.key(0), (6, 3)))
  np.testing.assert_allclose(blocks.sharpen(q, 1.0), q, rtol=1e-5)
  np.testing.assert_allclose(blocks.sharpen(q, 0.5).sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    blocks.sharpen(q, 1e-3), np.eye(3)[np.asarray(q).argmax(-1)], atol=1e-6
  )


def test_focal_loss_without_exponent_is_weighted_cross_entropy():
  logits = jax.random.normal(jax.random.key(0), (5, 2))
  anomalous = jnp.arange(5) < 2
  p = np.asarray(jax.nn.softmax(logits))
  p = np.where(anomalous, p[:, 1], p[:, 0])
  weight = np.where(anomalous, 0.75, 0.25)
  np.testing.assert_allclose(
    blocks.focal(logits, anomalous, 0.75, 0.0), -weight * np.log(p), rtol=1e-5
  )
  np.testing.assert_allclose(
    blocks.focal(logits, anomalous, 0.75, 2.0), -weight * (1 - p) ** 2 * np.log(p), rtol=1e-4
  )


def test_windows_are_joined_as_they_were_cut_and_keep_to_themselves():
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
  np.testing.assert_array_equal(swin.joined(swin.windows(x, 4), x.shape, 4), x)
  assert [swin.side(n, n, 8) for n in (28, 64, 6, 1)] == [7, 8, 6, 1]
  for shift in (0, 2):
    block = swin.Block(2, 4, shift)
    params = block.init(jax.random.key(1), x)
    run = jax.jit(block.apply)
    moved = np.asarray(run(params, x.at[:, 0, 0].multiply(-3.0)) != run(params, x)).any((0, 3))
    reached = np.zeros((8, 8), bool)
    reached[: 4 - shift, : 4 - shift] = True  # the window's cells, not those across the edge
    np.testing.assert_array_equal(moved, reached)


@pytest.mark.long
def test_the_first_epoch_collects_and_later_ones_learn():
  update, finish, score = jitted("semirest")
  start, told = first_state("semirest"), batch("semirest", range(4))
  first, _ = update(start, told)
  assert first.present.tolist()[:4] == [True, False, True, False] and int(first.memory.count) == 2
  jax.tree.map(np.testing.assert_array_equal, first.params, start.params)
  later = told._replace(epoch=jnp.int32(1))
  second, logs = update(first, later)
  assert bool(second.ready) and set(second.bank.row[second.bank.used].tolist()) <= {0, 2}
  assert float(logs["known"]) > 0
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, second.params)
  assert all(jax.tree.leaves(moved))
  # Padding teaches nothing in later epochs either.
  valid = [True, True, False, False]
  one, two = (
    update(first, batch("semirest", [0, 1, *r], valid)._replace(epoch=jnp.int32(1)))[0].params
    for r in ((2, 3), (5, 7))
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)
  done = finish(second)
  assert not done.ready and not done.present.any() and int(done.memory.count) == 0
  scores = score(done, batch("semirest", range(10, 14)))
  np.testing.assert_array_equal(scores.image, scores.pixel.max((1, 2)))
  assert 0 <= float(scores.pixel.min()) <= float(scores.pixel.max()) <= 1


@pytest.mark.parametrize(
  "wrong",
  [
    *({"stages": ()}, {"dim": 0}, {"ratio": 0.0}, {"projection": 0}, {"reach": -1.0}),
    *({"neighbours": 0}, {"dropped": 1.0}, {"least": 0.0}, {"width": 9}, {"depth": 0}),
    *({"heads": 0}, {"window": 0}, {"alpha": 2.0}, {"gamma": -1.0}, {"temperature": 0.0}),
    *({"mix": 0.0}, {"balance": -1.0}, {"sources": 0}, {"sigma": 0.0}, {"lr": -1.0}),
    *({"weight_decay": -1.0}, {"kept": 0}),
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("semirest", wrong)
