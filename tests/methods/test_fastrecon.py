"""FastRecon: the regression against slow ones, what it promises, and the authors' numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.methods import fastrecon
from imiad_jax.types import Batch, Spec
from tests.methods.common import assert_refused, batch, jitted, learnt, spec
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parent.parent / "parity" / "fastrecon.npz"


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def residual(query, mean, rows, weight):
  as_float32 = [jnp.asarray(x, jnp.float32) for x in (query, mean, rows)]
  q, m, s = as_float32
  return np.asarray(fastrecon.residual(q, m, fastrecon.span(s), weight))


def test_the_regression_equals_least_squares_and_its_closed_form():
  query, mean, rows, weight = drawn(30, 12), drawn(30, 12, seed=1), drawn(5, 12, seed=2), 2.0
  got = residual(query, mean, rows, weight)
  # min over w of |q - w S|^2 + weight |w S - mu|^2, each patch a stacked system of its own
  stacked = np.concatenate([rows, np.sqrt(weight) * rows], axis=1).T
  wanted = np.concatenate([query, np.sqrt(weight) * mean], axis=1).T
  w = np.linalg.lstsq(stacked, wanted, rcond=None)[0].T
  np.testing.assert_allclose(got, np.linalg.norm(query - w @ rows, axis=1), rtol=1e-4)
  gram = np.linalg.inv((1 + weight) * rows @ rows.T)
  closed = (query @ rows.T + weight * mean @ rows.T) @ gram @ rows
  np.testing.assert_allclose(got, np.linalg.norm(query - closed, axis=1), rtol=1e-4)


def test_what_normal_patches_make_up_loses_nothing():
  rows = drawn(5, 12)
  query = drawn(8, 5, seed=1) @ rows
  length = np.linalg.norm(query, axis=1)
  assert (residual(query, drawn(8, 12, seed=2), rows, 0.0) < 1e-5 * length).all()
  # Nor does the support image itself, however much it is drawn to the mean: that is itself.
  for weight in (0.0, 2.0, 100.0):
    assert (residual(query, query, rows, weight) < 1e-4 * length).all()


def test_only_the_span_of_the_coreset_matters():
  query, mean, rows = drawn(8, 12), drawn(8, 12, seed=1), drawn(5, 12, seed=2)
  got = residual(query, mean, rows, 2.0)
  mixed = drawn(5, 5, seed=3) @ rows
  np.testing.assert_allclose(residual(query, mean, mixed, 2.0), got, rtol=1e-4)
  twice = np.concatenate([rows[:1], rows, rows, np.zeros((1, 12))])
  np.testing.assert_allclose(residual(query, mean, twice, 2.0), got, rtol=1e-4)
  assert (residual(query, mean, rows[:4], 2.0) > 1.001 * got).any()


def test_much_weight_leaves_the_distance_to_the_projected_mean():
  query, mean, rows = drawn(8, 12), drawn(8, 12, seed=1), drawn(5, 12, seed=2)
  projector = rows.T @ np.linalg.inv(rows @ rows.T) @ rows
  far = np.linalg.norm(query - mean @ projector, axis=1)
  np.testing.assert_allclose(residual(query, mean, rows, 1e6), far, rtol=1e-4)


def test_as_many_rows_as_numbers_rebuild_all_but_the_way_to_the_mean():
  query, mean = drawn(8, 12), drawn(8, 12, seed=1)
  got = residual(query, mean, drawn(20, 12, seed=2), 2.0)
  np.testing.assert_allclose(got, 2 / 3 * np.linalg.norm(query - mean, axis=1), rtol=1e-4)


def test_a_coreset_never_has_as_many_rows_as_numbers():
  h, w, _ = spec("fastrecon").shape("layer2")
  m, d = 8 * h * w, sum(spec("fastrecon").shape(s)[-1] for s in ("layer2", "layer3"))
  greedy = fastrecon.Model(backbone="efficientnet_lite0", ratio=1.0)
  state = greedy.init(jax.random.key(0), spec("fastrecon"), {})
  assert len(state.basis) == d // 2 < m


def test_a_new_task_forgets_the_last_one():
  update, finish, score = jitted("fastrecon")
  state = learnt("fastrecon")
  for first in (0, 4):
    state, _ = update(state, batch("fastrecon", range(first, first + 4), seed=1))
  state = finish(state)
  old, new = (score(state, batch("fastrecon", [0, 1], seed=s)).image for s in (0, 1))
  assert (new < old).all()


def features(names):
  shapes = {"layer2": (7, 6, 6), "layer3": (9, 3, 3)}
  return {
    layer: jnp.asarray(
      np.concatenate([seeded.tensor(n + layer, (1, *shape)) for n in names]).transpose(0, 2, 3, 1)
    )
    for layer, shape in shapes.items()
  }


def test_coreset_and_scores_are_those_of_the_authors_code():
  m = fastrecon.Model(size=48, ratio=0.1, batch=2)
  shapes = tuple((stage, x.shape[1:]) for stage, x in features(["a"]).items())
  state = m.init(jax.random.key(0), Spec((48, 48, 3), shapes, 8, 1), {})

  def rows(names):
    n = len(names)
    told = (jnp.zeros(n, jnp.int32), jnp.zeros((n, 48, 48), jnp.int32), jnp.arange(n))
    image = jnp.zeros((n, 48, 48, 3))
    return Batch(image, *told, jnp.int32(0), jnp.ones(n, bool), features(names))

  state, _ = m.update(state, rows(["a", "b"]))
  state = jax.jit(m.finish)(state)
  scores = m.score(state, rows(["query"]))
  with np.load(STORED) as stored:
    np.testing.assert_allclose(state.mean, stored["mean"], atol=1e-6 * np.abs(stored["mean"]).max())
    # Seven rows of theirs are in the span of ours, which has seven dimensions.
    coreset = stored["coreset"]
    basis = np.asarray(state.basis)
    assert (np.linalg.norm(basis, axis=1) > 0.5).sum() == len(coreset)
    atol = 1e-5 * np.abs(coreset).max()
    np.testing.assert_allclose(coreset @ basis.T @ basis, coreset, atol=atol)
    np.testing.assert_allclose(scores.image[0], stored["score"], rtol=1e-5)
    np.testing.assert_allclose(scores.pixel[0], stored["map"], rtol=1e-5)


@pytest.mark.parametrize(
  "wrong",
  [{"stages": ()}, {"stages": ("embedding",)}, {"ratio": 0.0}, {"weight": -1.0}, {"sigma": 0.0}],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("fastrecon", wrong)
