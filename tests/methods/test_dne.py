"""DNE: one Gaussian a task, a head that the first task alone trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  learnt,
)

TINY = {}


def test_dne_after_one_task_scores_with_that_tasks_gaussian():
  state = learnt("dne")
  np.testing.assert_allclose(state.mean, state.means[0], atol=1e-5)
  np.testing.assert_allclose(np.linalg.inv(state.white), state.factors[0], atol=1e-4)


def test_dne_trains_its_backbone_and_freezes_the_head_after_the_first_task():
  update, _, _ = jitted("dne")
  start, first = first_state("dne"), learnt("dne")
  changed = [
    np.abs(a - b).max() > 0
    for a, b in zip(
      jax.tree.leaves(start.params["layer3"]), jax.tree.leaves(first.params["layer3"]), strict=True
    )
  ]
  assert all(changed)
  assert_same_bits(start.frozen, first.frozen)
  assert float(jnp.abs(start.head["kernel"] - first.head["kernel"]).max()) > 0
  state, _ = update(first, batch("dne", range(4), seed=1))
  assert_same_bits(first.head, state.head)
  assert (
    float(
      jnp.abs(
        state.params["layer3"]["block0"]["project"]["kernel"]
        - first.params["layer3"]["block0"]["project"]["kernel"]
      ).max()
    )
    > 0
  )


def test_dne_keeps_each_tasks_gaussian_and_its_memory_does_not_grow():
  update, finish, _ = jitted("dne")
  first = learnt("dne")
  state, _ = update(first, batch("dne", range(4), seed=1))
  second = finish(state)
  assert_same_bits(first.means[0], second.means[0])
  assert_same_bits(first.factors[0], second.factors[0])
  assert second.counts.tolist() == [8, 4] and int(second.task) == 2
  assert not second.present.any()
  sizes = [[x.shape for x in jax.tree.leaves(s)] for s in (first, second)]
  assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
  "wrong",
  [
    {"lr": -1.0},
    {"aspect": 0.0},
    {"jitter": 2.0},
    {"embedding": "layer9"},
    {"frozen": ("nothing",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("dne", wrong)
