"""CutPaste: what is trained when, whose Gaussian it is, and the numbers of the PyTorch version."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imiad_jax import features, images
from imiad_jax.errors import UserError
from imiad_jax.heads import embedding, gaussian
from imiad_jax.methods import cutpaste
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  jitted,
  kw,
  learnt,
  leaves,
  method,
  spec,
)
from tests.parity import seeded

TINY = {"epochs": 4, "warmup": 1, "lr": 0.003}


def embedded(state, image):
  """Unit embeddings of images under a State's weights."""
  embed = embedding.embedder("efficientnet_lite0", kw("cutpaste")["embedding"])
  return embedding.unit(embed(state.params | state.frozen, image))


def test_the_head_is_warmed_up_before_the_backbone_is_trained():
  update, _, _ = jitted("cutpaste")
  start = first_state("cutpaste")
  warm, _ = update(start, batch("cutpaste", range(4)))
  assert_same_bits(start.params, warm.params)
  assert (start.head["out"]["kernel"] != warm.head["out"]["kernel"]).all()
  trained, _ = update(warm, batch("cutpaste", range(4)))
  assert_same_bits(start.frozen, trained.frozen)
  for a, b in zip(leaves(warm.params["layer3"]), leaves(trained.params["layer3"]), strict=True):
    assert (a != b).any()


@pytest.mark.long
def test_the_last_pass_changes_no_weight_and_embeds_the_images_as_they_are():
  update, finish, _ = jitted("cutpaste")
  state, last = first_state("cutpaste"), kw("cutpaste")["epochs"]
  assert method("cutpaste").epochs == last + 1
  for epoch in range(last + 1):
    before = state
    for first in (0, 4):
      one = batch("cutpaste", range(first, first + 4))
      state, _ = update(state, one._replace(epoch=jnp.int32(epoch)))
  assert_same_bits((before.params, before.head), (state.params, state.head))
  z = embedded(state, batch("cutpaste", range(8)).image)
  np.testing.assert_allclose(state.embedding, z, atol=1e-5)
  mean, covariance = gaussian.ledoit_wolf(z, jnp.ones(8, bool))
  state = finish(state)
  np.testing.assert_allclose(state.mean, mean, atol=1e-6)
  scale = float(jnp.abs(covariance).max())
  factor = np.linalg.inv(state.white)
  np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-4 * scale)


@pytest.mark.parametrize("begun", [0, 20])
def test_the_rate_falls_with_each_step_after_the_first_pass_of_a_task(begun):
  update, _, _ = jitted("cutpaste")
  state = first_state("cutpaste")._replace(step=jnp.int32(begun), begun=jnp.int32(begun))
  for first in (0, 4):
    state, _ = update(state, batch("cutpaste", range(first, first + 4)))
  assert int(state.length) == 2

  def moved(done, epoch):
    at = state._replace(step=jnp.int32(begun + done))
    after, _ = update(at, batch("cutpaste", range(4))._replace(epoch=jnp.int32(epoch)))
    return after.head["out"]["kernel"] - state.head["out"]["kernel"]

  whole = moved(1, 0) / TINY["lr"]
  for done in range(2, 8):
    rate = optax.cosine_decay_schedule(TINY["lr"], 8)(done)  # four passes of two steps
    np.testing.assert_allclose(moved(done, done // 2), rate * whole, atol=1e-6)


def test_a_later_task_has_a_gaussian_of_its_own():
  update, finish, _ = jitted("cutpaste")
  state, _ = update(learnt("cutpaste"), batch("cutpaste", range(4), seed=1))
  second = finish(state)
  np.testing.assert_allclose(second.mean, state.embedding[:4].mean(0), atol=1e-6)
  assert int(second.step) == 3 and not second.present.any()


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_or_two_are_enough(count):
  update, finish, score = jitted("cutpaste")
  valid = [i < count for i in range(4)]
  state, _ = update(first_state("cutpaste"), batch("cutpaste", range(4), valid))
  scores = score(finish(state), batch("cutpaste", range(4))).image
  assert np.isfinite(scores).all() and scores[count:].min() > scores[:count].max()


@pytest.mark.parametrize(
  ("patches", "classes"), [("rectangle", 2), ("scar", 2), ("union", 2), ("3way", 3)]
)
def test_each_kind_of_patch_is_a_class(patches, classes):
  m = cutpaste.Model(**kw("cutpaste", patches=patches))
  params = features.backbone("efficientnet_lite0").params
  init = lambda key: m.init(key, spec("cutpaste"), params)  # noqa: E731
  state = jax.eval_shape(init, jax.random.key(0))
  assert state.head["out"]["kernel"].shape[-1] == classes


def test_a_union_is_the_one_or_the_other():
  image = jnp.asarray(np.random.default_rng(0).random((64, 64, 3), np.float32))
  keys = jax.random.split(jax.random.key(0), 12)
  masks = jax.vmap(lambda key: cutpaste.rectangle_or_scar(key, image, 0.0)[1])(keys)
  keys = jax.vmap(lambda key: jax.random.split(key)[1])(keys)
  rectangle, scar = (
    jax.vmap(lambda key, p=paste: p(key, image, strength=0.0)[1])(keys)
    for paste in (images.cutpaste, images.scar)
  )
  one, other = ((masks == kind).all((1, 2)) for kind in (rectangle, scar))
  assert (one != other).all() and 0 < one.sum() < 12


@pytest.fixture(scope="module")
def stored():
  with np.load(Path(__file__).parents[1] / "parity" / "cutpaste.npz") as file:
    return dict(file)


def test_head_and_steps_are_those_of_the_pytorch_version(stored):
  layers = {"linear0": "head.0", "norm0": "head.1", "linear1": "head.3", "norm1": "head.4"}
  layers["out"] = "out"
  head = cutpaste.Head((16, 8), 3)
  z = jnp.asarray(seeded.tensor("embeddings", (12, 512)) * 20)
  valid, label = jnp.ones(12, bool), jnp.repeat(jnp.arange(3), 4)
  shapes = jax.eval_shape(head.init, jax.random.key(0), z, None)["params"]

  def fill(path, leaf):
    layer, *_, kind = (k.key for k in path)
    kind = "bias" if kind == "bias" else "weight"
    shape = leaf.shape if leaf.ndim == 1 else leaf.shape[:1:-1]
    return jnp.asarray(seeded.tensor(f"{layers[layer]}.{kind}", shape).T.reshape(leaf.shape))

  weights = jax.tree_util.tree_map_with_path(fill, shapes)

  def loss(weights, z):
    logits, _ = head.apply({"params": weights}, z, valid, mutable=["batch_stats"])
    each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(each), logits

  gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  optimiser = cutpaste.sgd(0.9, 3e-5)
  kept = optimiser.init(weights)
  for i in range(3):
    (value, logits), (gradient, of_z) = gradients(weights, z)
    if i == 0:
      np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(value, stored["loss"], rtol=1e-5)
      np.testing.assert_allclose(of_z, stored["gradient"], rtol=1e-3, atol=1e-6)
    step, kept = optimiser.update(gradient, kept, weights)
    weights = jax.tree.map(lambda x, dx: x - 0.03 * dx, weights, step)
  for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]:
    layer, *_, kind = (k.key for k in path)
    theirs = stored[f"after/{layers[layer]}.{'bias' if kind == 'bias' else 'weight'}"]
    ours = seeded.sample(jnp.squeeze(leaf).T)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=f"{layer} {kind}")


def test_the_density_is_that_of_the_pytorch_version(stored):
  fitted, asked = (
    embedding.unit(jnp.asarray(seeded.tensor(name, (n, 24))))
    for name, n in (("fitted", 40), ("asked", 10))
  )
  mean, factor = embedding.fit(fitted, jnp.ones(40, bool))
  white = gaussian.whitening(factor)
  got = gaussian.mahalanobis(asked, mean, white)
  np.testing.assert_allclose(got, stored["distance"], rtol=1e-4)
  assert float(gaussian.mahalanobis(mean[None], mean, white)[0]) == 0


@pytest.mark.parametrize(("theirs", "paste"), [("Normal", images.cutpaste), ("Scar", images.scar)])
def test_patches_are_as_large_as_in_the_pytorch_version(theirs, paste, stored):
  image = jnp.zeros((256, 256, 3))
  share = jax.jit(lambda key: jnp.mean(paste(key, image, strength=0.0)[1]))
  keys = jax.random.split(jax.random.key(0), 1000)
  got = np.quantile(jax.lax.map(share, keys), np.linspace(0.1, 0.9, 9))
  # Two standard errors of a decile of 1000 draws are 3 hundredths of all ranks.
  np.testing.assert_allclose(got, stored[f"share/{theirs}"], rtol=0.08)


@pytest.mark.parametrize(
  "wrong",
  [
    {"lr": -1.0},
    {"momentum": 1.0},
    {"weight_decay": -1.0},
    {"warmup": -1},
    {"jitter": 2.0},
    {"embedding": "layer9"},
    {"frozen": ("nothing",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("cutpaste", wrong)


def test_unknown_patches_are_refused_with_those_there_are():
  with pytest.raises(UserError, match=r'"4way".*Did you mean "3way".*rectangle'):
    cutpaste.Model(patches="4way")
  with pytest.raises(ValueError, match="head is"):
    cutpaste.Model(head=(0,))
