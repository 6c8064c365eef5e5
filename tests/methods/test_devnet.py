"""DevNet: its loss, its balance, what it trains, and the numbers of the original."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imiad_jax import features
from imiad_jax.backbones import common, resnet
from imiad_jax.heads import deviation
from imiad_jax.heads.layers import Conv
from imiad_jax.methods import devnet
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  learnt,
  spec,
)
from tests.methods.test_stpm import seeded_state
from tests.parity import seeded

TINY = {"epochs": 40}

STORED = Path(__file__).parent.parent / "parity" / "devnet.npz"


def test_the_strongest_tenth_is_19_of_196_cells_and_4_of_49():
  rng = np.random.default_rng(0)
  for side, k in ((14, 19), (7, 4), (2, 1)):
    grid = rng.normal(size=(2, side, side)).astype(np.float32)
    got = deviation.strongest(jnp.asarray(grid), 0.1)
    flat = np.sort(grid.reshape(2, -1))
    np.testing.assert_allclose(got, flat[:, -k:].mean(1), rtol=1e-6)
    moved = rng.permuted(grid.reshape(2, -1), axis=1).reshape(grid.shape)
    np.testing.assert_allclose(deviation.strongest(jnp.asarray(moved), 0.1), got, rtol=1e-6)
    everything = deviation.strongest(jnp.asarray(grid), 1.0)
    np.testing.assert_allclose(everything, flat.mean(1), rtol=1e-5, atol=1e-6)


def test_normal_scores_belong_at_the_mean_and_others_five_deviations_above():
  drawn = deviation.reference(jax.random.key(0))
  assert drawn.shape == (5000,)
  mean, sd = np.mean(drawn), np.std(drawn, ddof=1)
  dev = jnp.array([-1.0, 0.0, 2.0, 5.0, 7.0])
  low, high = (deviation.loss(mean + sd * dev, jnp.full(5, y), drawn) for y in (0.0, 1.0))
  np.testing.assert_allclose(low, [1, 0, 2, 5, 7], atol=1e-5)
  np.testing.assert_allclose(high, [6, 5, 3, 0, 0], atol=1e-5)
  slope = jax.grad(lambda s: deviation.loss(s, jnp.float32(1), drawn))
  np.testing.assert_allclose(slope(jnp.float32(2)), -1 / sd, rtol=1e-5)
  assert slope(jnp.float32(7)) == 0


def test_anomalies_weigh_as_much_as_all_others():
  told = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, -1, -1])
  label = jnp.where(told == 1, 1, 0)[:8]
  weight = deviation.balance(told, label, 0.5)
  np.testing.assert_allclose(jnp.sum(weight, where=label == 1), 4, rtol=1e-6)
  np.testing.assert_allclose(jnp.sum(weight, where=label == 0), 4, rtol=1e-6)
  for alike in (0, 1):
    one = deviation.balance(jnp.array([alike, alike, -1]), jnp.array([alike, alike]), 0.5)
    np.testing.assert_array_equal(one, 1)


def test_smaller_scales_are_of_the_nearest_pixels():
  image = jnp.arange(2 * 6 * 8 * 3, dtype=jnp.float32).reshape(2, 6, 8, 3)
  np.testing.assert_array_equal(deviation.shrink(image, 1), image)
  np.testing.assert_array_equal(deviation.shrink(image, 2), image[:, ::2, ::2])
  np.testing.assert_array_equal(deviation.shrink(image[:, :5, :7], 2)[0, 0, :, 0], [0, 6, 12])


def test_images_are_turned_each_by_its_own_angle():
  image = jnp.ones((3, 16, 16, 3))
  assert_same_bits(deviation.turn(jax.random.key(0), image, 0.0), image)
  turned = deviation.turn(jax.random.key(0), image, 180.0)[..., 0]
  assert float(turned.min()) == 0 and not bool((turned[0] == turned[1]).all())


def test_a_map_of_a_gradient_lies_between_0_and_1():
  rng = np.random.default_rng(0)
  gradient = jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32).at[1].set(0.5)
  pixel = devnet.saliency(gradient, 1.0)
  assert float(pixel.min()) >= 0 and 0.2 < float(pixel[0].max()) <= 1
  np.testing.assert_array_equal(pixel[1], 0)
  np.testing.assert_allclose(devnet.saliency(7 * gradient, 1.0), pixel, atol=1e-5)


@pytest.mark.long
def test_features_computed_once_give_the_same_loss_and_only_named_parts_are_trained():
  rows = batch("devnet", range(4))
  head_only, was = first_state("devnet"), jitted("devnet")[0]
  after, logs = was(head_only, rows)
  assert head_only.params == {} and bool((after.head["kernel"] != head_only.head["kernel"]).all())
  other = devnet.Model(**kw("devnet", trained=("layer3",)))
  assert other.stages == ()
  params = features.backbone("efficientnet_lite0").params
  first = other.init(jax.random.key(0), spec("devnet"), params)
  moved, same = jax.jit(other.update)(first, rows._replace(features={}))
  np.testing.assert_allclose(same["loss"], logs["loss"], rtol=1e-4)
  assert set(moved.params) == {"layer3"}
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, moved.params)
  assert all(jax.tree.leaves(changed))
  assert_same_bits(first.frozen, moved.frozen)


@pytest.mark.long
def test_a_task_begins_with_no_labels_told():
  update, finish, _ = jitted("devnet")
  state, _ = update(first_state("devnet"), batch("devnet", range(4), [True, True, True, False]))
  assert state.told.tolist() == [0, 1, 0, -1, -1, -1, -1, -1]
  assert finish(state).told.tolist() == [-1] * 8


@pytest.mark.long
def test_the_score_is_never_negative_and_the_map_follows_it():
  scores = jitted("devnet")[2](learnt("devnet"), batch("devnet", range(10, 14)))
  assert float(scores.image.min()) >= 0
  assert bool((scores.pixel.max((1, 2)) <= scores.image * (1 + 1e-5)).all())


@pytest.mark.long
def test_two_steps_are_those_of_the_authors_optimiser():
  tensors = {n: jnp.asarray(seeded.tensor(n, (3, 5))) for n in "ab"}
  optimiser = deviation.optimise(1e-5)
  state = optimiser.init(tensors)
  for i in range(2):
    gradient = {n: jnp.asarray(4 * seeded.tensor(f"{n}{i}", (3, 5))) for n in "ab"}
    step, state = optimiser.update(gradient, state, tensors)
    tensors = optax.apply_updates(tensors, jax.tree.map(lambda x: -2e-4 * x, step))
  with np.load(STORED) as stored:
    for n in "ab":
      np.testing.assert_allclose(tensors[n], stored[f"step/{n}"], rtol=1e-6, atol=1e-8)


@pytest.mark.long
def test_scores_loss_gradients_and_maps_are_those_of_the_original():
  names = seeded_state("feature_extractor.net.")
  layers, head = resnet._layers("resnet18"), common.Head("fc", 512)
  backbone = common.fold(names, layers, 1e-5, head, Path("seeded"))
  weights = {
    "kernel": jnp.asarray(seeded.tensor("conv.weight", (1, 512, 1, 1)).transpose(2, 3, 1, 0)),
    "bias": jnp.asarray(seeded.tensor("conv.bias", (1,))),
  }
  image = jnp.asarray(np.concatenate(seeded.images(((64, 64),) * 3)))
  drawn = jnp.asarray(np.random.default_rng(1).standard_normal(5000, np.float32))
  look = deviation.grids("resnet18", "layer4", 2)

  def scored(params, head, image):
    cells = [jnp.abs(Conv(1, 1).apply({"params": head}, x)[..., 0]) for x in look(params, image)]
    return jnp.mean(jnp.stack([deviation.strongest(x, 0.1) for x in cells]), axis=0)

  def loss(params, head):
    return jnp.mean(deviation.loss(scored(params, head, image), jnp.array([0.0, 0.0, 1.0]), drawn))

  score = jax.jit(scored)(backbone, weights, image)
  saliency = jax.jit(jax.grad(lambda x: scored(backbone, weights, x).sum()))(image)
  pixel = devnet.saliency(saliency, 4.0)
  value, (of_backbone, of_head) = jax.jit(jax.value_and_grad(loss, (0, 1)))(backbone, weights)
  norm = {n: names[f"layer4.1.bn2.{n}"] for n in ("weight", "running_var")}
  scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)  # folded into the kernel
  last = of_backbone["layer4"]["block1"]["conv2"]["kernel"] * scale
  with np.load(STORED) as stored:
    np.testing.assert_allclose(score, stored["score"], rtol=1e-5)
    np.testing.assert_allclose(value, stored["loss"], rtol=1e-5)
    for i in range(3):
      np.testing.assert_allclose(seeded.sample(pixel[i]), stored["map"][i], atol=1e-4)
    for got, wanted in ((of_head["kernel"], "head"), (last, "last")):
      wanted = stored[f"gradient/{wanted}"]
      np.testing.assert_allclose(seeded.sample(got), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
  "wrong",
  [
    {"stage": "layer9"},
    {"stage": "embedding", "trained": ("head",)},
    {"trained": ("nothing",)},
    {"scales": 0},
    {"share": 0.0},
    {"lr": -1.0},
    {"drops": -1},
    {"weight_decay": -1.0},
    {"rotation": -1.0},
    {"sigma": 0.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("devnet", wrong)
