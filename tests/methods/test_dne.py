"""DNE: one Gaussian a task, a head that the first task alone trains, the first author's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import embedding as embeddings
from imiad_jax.methods import dne
from imiad_jax.types import Batch
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  close,
  first_state,
  jitted,
  learnt,
  seeded_spec,
)
from tests.parity import seeded

TINY = {}

STORED = Path(__file__).parents[1] / "parity" / "dne.npz"


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


def test_tasks_steps_and_scores_are_those_of_the_first_authors_code(monkeypatch):
  b, side, d, tasks = 8, 3, 5, 3
  linear = lambda *_: lambda params, x: x.reshape(len(x), -1) @ params["body"]  # noqa: E731
  monkeypatch.setattr(embeddings, "embedder", linear)
  monkeypatch.setattr(dne.images, "jitter", lambda key, image, strength: image)
  monkeypatch.setattr(dne.images, "cutpaste", lambda key, image, *_: (-image, None))
  monkeypatch.setattr(dne.images, "rotate", lambda image, angle: image)
  noise = jnp.asarray(seeded.tensor("noise", (2 * b, d, 1)))[..., 0]
  monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.broadcast_to(noise, shape))

  def told(name: str, number: int = 0) -> Batch:
    image = jnp.asarray(seeded.tensor(name, (b, 3 * side * side, 1))).reshape(b, side, side, 3)
    row, none = b * number + jnp.arange(b), jnp.zeros(b, jnp.int32)
    return Batch(image, none, none, row, jnp.int32(0), jnp.ones(b, bool), {})

  weights = {k: seeded.tensor(f"{k}.weight", s) for k, s in (("body", (d, 27)), ("head", (2, d)))}
  head = {"kernel": weights["head"].T, "bias": seeded.tensor("head.bias", (2,))}
  own = jax.tree.map(jnp.asarray, ({"body": weights["body"].T}, head))
  start = embeddings.Tuned(own[0], {}, d)
  monkeypatch.setattr(embeddings, "start", lambda *_: start)
  m = dne.Model("any", size=side, epochs=1, lr=0.02, weight_decay=3e-2)
  state = m.init(jax.random.key(0), seeded_spec({}, side, 2 * b, tasks), None)
  state = state._replace(head=own[1])
  with np.load(STORED) as stored:
    for t in range(tasks):
      for i in range(2):
        state, _ = m.update(state, told(f"{t}/{i}", i))
      state = m.finish(state)
      close(state.params["body"].T, stored[f"{t}/body.weight"])
      close(state.head["kernel"].T, stored[f"{t}/head.weight"])
      close(state.head["bias"], stored[f"{t}/head.bias"])
      factor = np.linalg.inv(np.asarray(state.white, np.float64))
      close(state.mean, stored[f"{t}/mean"])
      close(factor @ factor.T, stored[f"{t}/covariance"])
      close(m.score(state, told("test")).image, stored[f"{t}/score"])


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
