"""DRA: its heads and their losses, its references, and the numbers of the original."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.backbones import common, resnet
from imiad_jax.heads import deviation
from imiad_jax.methods import dra
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  learnt,
)
from tests.methods.test_stpm import seeded_state
from tests.parity import seeded

TINY = {"references": 2, "epochs": 20, "lr": 0.01}

STORED = Path(__file__).parent.parent / "parity" / "dra.npz"


def test_images_that_are_the_reference_leave_nothing():
  rng = np.random.default_rng(0)
  grids = [jnp.asarray(rng.normal(size=(2, n, n, 6)), jnp.float32) for n in (4, 2)]
  heads = dra.Heads(0.1)
  variables = heads.init(jax.random.key(0), grids, [x[0] for x in grids], None)
  own, _ = heads.apply(variables, [x[:1] for x in grids], [x[0] for x in grids], None)
  other, _ = heads.apply(variables, [x[1:] for x in grids], [x[1] for x in grids], None)
  mixed, dense = heads.apply(variables, grids, [x[0] for x in grids], None)
  np.testing.assert_allclose(own[3], other[3], rtol=1e-6)
  assert abs(float(mixed[3, 1] - other[3, 0])) > 1e-3
  np.testing.assert_allclose(own[:3], mixed[:3, :1], rtol=1e-5)
  assert [x.shape for x in dense] == [(2, 4, 4), (2, 2, 2)] and float(mixed.min()) >= 0


def test_each_head_learns_from_its_own_images():
  rng = np.random.default_rng(0)
  scores = jnp.asarray(rng.uniform(0, 7, (4, 6)), jnp.float32)
  label = jnp.array([0, 1, 2, 0, 2, 1])
  drawn = deviation.reference(jax.random.key(0))
  got = dra.losses(scores, label, jnp.ones(6), drawn)
  subsets = [label >= 0, label != 2, label != 1, label >= 0]
  wanted = [label == 0, label == 1, label == 2, label != 0]
  for i in range(4):
    own = np.flatnonzero(subsets[i])
    each = deviation.loss(scores[i, own], wanted[i][own].astype(jnp.float32), drawn)
    np.testing.assert_allclose(got[i], each.mean(), rtol=1e-5)
  nothing = dra.losses(scores, jnp.full(6, 1), jnp.ones(6), drawn)
  assert nothing[2] == 0 and float(nothing[1]) > 0
  masked = dra.losses(scores, label, jnp.array([1.0, 1, 1, 1, 0, 0]), drawn)
  np.testing.assert_allclose(masked, dra.losses(scores[:, :4], label[:4], jnp.ones(4), drawn))


@pytest.mark.long
def test_references_are_the_first_normal_images_of_each_task():
  update, finish, _ = jitted("dra")
  first = batch("dra", [1, 2, 3, 4], [True, True, True, False])
  state, _ = update(first_state("dra"), first)
  assert int(state.referred) == 1
  np.testing.assert_array_equal(state.reference[0], first.image[1])
  second = batch("dra", [0, 6, 5, 7])
  state, _ = update(state, second)
  assert int(state.referred) == 2
  np.testing.assert_array_equal(state.reference, [first.image[1], second.image[0]])
  done = finish(state)
  assert_same_bits((done.reference, done.referred), (state.reference, state.referred))
  later = batch("dra", [2, 3, 5, 7], seed=1)
  state, _ = update(done, later)
  assert int(state.referred) == 1
  np.testing.assert_array_equal(state.reference[0], later.image[0])


@pytest.mark.long
def test_a_step_trains_all_heads_and_no_frozen_part():
  first = first_state("dra")
  state, _ = jitted("dra")[0](first, batch("dra", range(4)))
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), first.heads, state.heads)
  assert all(jax.tree.leaves(moved)) and len(jax.tree.leaves(moved)) == 14
  assert_same_bits(first.frozen, state.frozen)


@pytest.mark.long
def test_what_looks_normal_lowers_the_score_and_leaves_the_map():
  score, state = jitted("dra")[2], learnt("dra")
  rows = batch("dra", range(10, 14))
  normal = state.heads["normal"]
  surer = state.heads | {"normal": normal | {"bias": normal["bias"] + 1000}}
  was, now = score(state, rows), score(state._replace(heads=surer), rows)
  assert bool((now.image < was.image - 500).all()) and float(was.pixel.min()) >= 0
  assert_same_bits(was.pixel, now.pixel)


def theirs(name: str, shape) -> jnp.ndarray:
  value = seeded.tensor(name, shape)
  return jnp.asarray(value.transpose(2, 3, 1, 0) if len(shape) == 4 else value)


def conv(name: str, out: int, channels: int, size: int = 1):
  bias = theirs(f"{name}.bias", (out,))
  if name.startswith("holistic"):
    kernel = seeded.tensor(f"{name}.weight", (out, channels)).T[None, None]
    return {"kernel": jnp.asarray(kernel), "bias": bias}
  return {"kernel": theirs(f"{name}.weight", (out, channels, size, size)), "bias": bias}


@pytest.mark.long
def test_scores_losses_and_gradients_are_those_of_the_original():
  names = seeded_state("feature_extractor.net.")
  layers, classifier = resnet._layers("resnet18"), common.Head("fc", 512)
  backbone = common.fold(names, layers, 1e-5, classifier, Path("seeded"))
  norm = "composite_head.conv.1"
  params = {
    "hidden": conv("holistic_head.fc1", 256, 512),
    "normal": conv("holistic_head.fc2", 1, 256),
    "seen": conv("seen_head.scoring", 1, 512),
    "pasted": conv("pseudo_head.scoring", 1, 512),
    "mixed": conv("composite_head.conv.0", 512, 512, 3),
    "norm": {"scale": theirs(f"{norm}.weight", (512,)), "bias": theirs(f"{norm}.bias", (512,))},
    "residual": conv("composite_head.scoring", 1, 512),
  }
  seen = {n: theirs(f"{norm}.running_{n}", (512,)) for n in ("mean", "var")}
  statistics = {"norm": seen}
  image = jnp.asarray(np.concatenate(seeded.images(((64, 64),) * 6)))
  grids = jax.jit(deviation.grids("resnet18", "layer4", 2))(backbone, image)
  mean, grids = [x[:2].mean(0) for x in grids], [x[2:] for x in grids]
  drawn = jnp.asarray(np.random.default_rng(1).standard_normal(5000, np.float32))
  heads, label = dra.Heads(0.1), jnp.array([0, 1, 2, 0])

  def loss(params):
    variables = {"params": params, "batch_stats": statistics}
    out, _ = heads.apply(variables, grids, mean, jnp.ones(4, bool), mutable=["batch_stats"])
    each = dra.losses(out[0], label, jnp.ones(4), drawn)
    return each.sum(), each

  tested, _ = jax.jit(heads.apply)({"params": params, "batch_stats": statistics}, grids, mean, None)
  (_, each), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  places = {
    "seen_head.scoring": "seen",
    "pseudo_head.scoring": "pasted",
    "composite_head.conv.0": "mixed",
  }
  with np.load(STORED) as stored:
    np.testing.assert_allclose(tested, stored["tested"], rtol=2e-5)
    np.testing.assert_allclose(each, stored["losses"], rtol=1e-5)
    for name, ours in places.items():
      wanted = stored[f"gradient/{name}"]
      got = seeded.sample(gradient[ours]["kernel"])
      np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stage": "layer9"},
    {"trained": ("nothing",)},
    {"scales": 0},
    {"share": 2.0},
    {"references": 0},
    {"lr": -1.0},
    {"drops": -1},
    {"weight_decay": -1.0},
    {"rotation": -1.0},
    {"sigma": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("dra", wrong)
