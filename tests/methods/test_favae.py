"""FAVAE: its size, its divergence, what is random, what adds up, and a version in PyTorch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imiad_jax.heads import maps
from imiad_jax.methods import favae
from imiad_jax.types import Batch, Spec
from tests.methods.common import (
  SIZE,
  assert_refused,
  batch,
  close,
  first_state,
  frozen,
  jitted,
  learnt,
  leaves,
  method,
)
from tests.parity import seeded

STORED = Path(__file__).parents[1] / "parity" / "favae.npz"
GRIDS = {"stem": (64, 16), "layer1": (32, 32), "layer2": (16, 64)}  # side, channels
TINY = {
  "stages": ("layer1", "layer2", "layer3"),
  "width": 16,
  "latent": 16,
  "epochs": 20,
}


def test_with_vgg16_it_has_as_many_parameters_as_the_pytorch_version():
  shapes = (("stem", (64, 64, 128)), ("layer1", (32, 32, 256)), ("layer2", (16, 16, 512)))
  spec = Spec((128, 128, 3), shapes, 8, 1)
  state = jax.eval_shape(lambda key: favae.Model().init(key, spec, None), jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(state.params)) == 20_303_499


def test_each_stage_is_rebuilt_in_its_own_shape():
  channels, strides = (5, 6, 7, 8), (2, 4, 8, 16)
  net = favae.Network(16, 4, channels, strides)
  x, noise = jnp.zeros((3, 48, 48, 3)), jnp.zeros((3, 4))
  rebuilt = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, noise, None)[0])
  assert rebuilt.image.shape == (3, 48, 48, 3) and rebuilt.mean.shape == (3, 4)
  assert [f.shape for f in rebuilt.features] == [
    (3, 48 // s, 48 // s, c) for c, s in zip(channels, strides, strict=True)
  ]


def test_the_divergence_is_that_of_two_gaussians():
  rng = np.random.default_rng(0)
  mean, log_var = (jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(2))
  assert float(favae.divergence(0 * mean, 0 * log_var).max()) == 0
  assert float(favae.divergence(mean, log_var).min()) > 0
  # By definition: the mean, under the first, of the difference of the log densities.
  x = np.asarray(mean) + np.exp(np.asarray(log_var) / 2) * rng.normal(size=(200_000, 5, 3))
  first = -0.5 * (np.square(x - mean) / np.exp(log_var) + log_var)
  wanted = (first + 0.5 * np.square(x)).sum(-1).mean(0)
  np.testing.assert_allclose(favae.divergence(mean, log_var), wanted, rtol=0.02)


def test_a_variance_beyond_all_numbers_stays_finite():
  net, x = favae.Network(16, 4, (5,), (4,)), jnp.ones((2, 32, 32, 3))
  noise = jnp.ones((2, 4))
  state = net.init(jax.random.key(0), x, noise, None)
  last = (2 * 4,)  # channels of the layer that gives mean and log_var
  wild = jax.tree.map(lambda p: 1e4 * p if p.shape[-1:] == last else p, state["params"])
  rebuilt = net.apply(state | {"params": wild}, x, noise, None)
  lost = favae.divergence(rebuilt.mean, rebuilt.log_var)
  assert np.isfinite(rebuilt.image).all() and np.isfinite(lost).all()
  assert float(rebuilt.log_var.max()) == 20  # which it would exceed


def test_training_is_random_and_scoring_is_not():
  update, _, score = jitted("favae")
  start = first_state("favae")
  one, two = (
    update(start._replace(key=jax.random.key(k)), batch("favae", range(4)))[1]["loss"]
    for k in (1, 2)
  )
  assert float(one) != float(two)
  again = learnt("favae")._replace(key=jax.random.key(9))
  rows = batch("favae", range(10, 14))
  np.testing.assert_array_equal(score(learnt("favae"), rows).pixel, score(again, rows).pixel)


def test_the_map_is_the_sum_of_all_errors():
  # A network that makes one number everywhere, whatever it is shown.
  state = learnt("favae")
  params = jax.tree.map(jnp.zeros_like, state.params)
  params["feature0"]["bias"] += 0.5
  rows = batch("favae", range(10, 14))
  got = jitted("favae")[2](state._replace(params=params), rows)
  wanted = np.square(rows.image - 0.5).sum(-1)
  for i, (stage, x) in enumerate(frozen("favae", rows.image).items()):
    assert stage == method("favae").stages[i]
    error = jnp.square(np.asarray(x) - (0.5 if i == 0 else 0)).sum(-1)
    wanted += jax.image.resize(error, (4, SIZE, SIZE), "bilinear", antialias=False)
  wanted = maps.blur(jnp.asarray(wanted), 4.0)
  np.testing.assert_allclose(got.pixel, wanted, rtol=1e-4)
  np.testing.assert_allclose(got.image, wanted.max((1, 2)), rtol=1e-4)


def test_a_step_changes_every_layer_and_the_running_statistics():
  update, _, _ = jitted("favae")
  start = first_state("favae")
  state, logs = update(start, batch("favae", range(4)))
  assert np.isfinite(logs["loss"])
  for part in ("params", "batch_stats"):
    for a, b in zip(leaves(getattr(start, part)), leaves(getattr(state, part)), strict=True):
      assert (a != b).any()


def originals():
  """Yields (name in PyTorch, part and key of ours) of all weights and running statistics."""
  layers = [(f"encode.{3 * i}", f"Conv_{i}") for i in range(9)]
  layers += [(f"decode.{3 * i + 1}", f"Transposed_{i}") for i in range(9)]
  for i in range(3):
    layers += [(f"adapter.{i}.conv.0", f"adapter{i}"), (f"adapter.{i}.conv.2", f"feature{i}")]
  for theirs, ours in layers:
    yield f"{theirs}.weight", ("params", ours, "kernel")
    yield f"{theirs}.bias", ("params", ours, "bias")
  norms = [f"encode.{3 * i + 1}" for i in range(8)] + [f"decode.{3 * i + 2}" for i in range(8)]
  for i, theirs in enumerate(norms):
    yield f"{theirs}.weight", ("params", f"Norm_{i}", "scale")
    yield f"{theirs}.bias", ("params", f"Norm_{i}", "bias")
    yield f"{theirs}.running_mean", ("batch_stats", f"Norm_{i}", "mean")
    yield f"{theirs}.running_var", ("batch_stats", f"Norm_{i}", "var")


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_map_and_step_are_those_of_the_version_in_pytorch(monkeypatch, x64):
  # It has images in [0, 1] here, and a map that is not smoothed.
  monkeypatch.setattr(favae.images, "standardise", lambda x: x)
  m = favae.Model(width=16, weight_decay=0.0, lr=0.0, sigma=1e-3)
  shapes = tuple((stage, (s, s, c)) for stage, (s, c) in GRIDS.items())
  double = lambda x: jnp.asarray(x, jnp.float64)  # noqa: E731
  start = jax.eval_shape(
    lambda key: m.init(key, Spec((128, 128, 3), shapes, 2, 1), None), jax.random.key(0)
  )
  found: dict = {"params": {}, "batch_stats": {}}
  axes = {}
  for name, (kind, part, key) in originals():
    shape = getattr(start, kind)[part][key].shape
    if key == "kernel":  # PyTorch's transposed kernels have the inputs first
      axes[name] = (2, 3, 0, 1) if part.startswith("Transposed") else (2, 3, 1, 0)
      back = np.argsort(axes[name])
      value = seeded.tensor(name, tuple(shape[i] for i in back)).transpose(axes[name])
    else:
      value = seeded.tensor(name, shape)
    found[kind].setdefault(part, {})[key] = double(value)
  moments = optax.scale_by_adam().init(found["params"])
  optimiser = (optax.EmptyState(), moments)
  state = favae.State(found["params"], found["batch_stats"], optimiser, jax.random.key(0))
  assert jax.tree.map(jnp.shape, state[:2]) == jax.tree.map(jnp.shape, start[:2])

  image = jnp.concatenate([double(x) for x in seeded.images(((128, 128),) * 2)])
  features = {
    stage: double(seeded.tensor(f"vgg/{s}", (2, s * s, c))).reshape(2, s, s, c)
    for stage, (s, c) in GRIDS.items()
  }
  none = jnp.zeros(2, jnp.int32)
  rows = Batch(image, none, none, none, jnp.int32(0), jnp.ones(2, bool), features)
  noise = double(seeded.tensor("noise", (2, 100, 1)))[..., 0]
  monkeypatch.setattr(jax.random, "normal", lambda *_: noise)
  with np.load(STORED) as stored:
    scores = m.score(state, rows)
    close(scores.image[0], stored["image"])
    close(seeded.sample(scores.pixel[0]), stored["map"])
    state, logs = jax.jit(m.update)(state, rows)
    np.testing.assert_allclose(2 * logs["loss"], stored["loss"], rtol=1e-5)
    before_norm = {f"encode.{3 * i}.bias" for i in range(8)}
    before_norm |= {f"decode.{3 * i + 1}.bias" for i in range(8)}
    gradients = state.optimiser[1].mu  # a tenth of them after one step
    for name, (kind, part, key) in originals():
      if kind == "params" and name not in before_norm:  # whose gradients are rounding alone
        got = 10 * np.asarray(gradients[part][key])
        got = got.transpose(np.argsort(axes[name])) if name in axes else got
        wanted = stored[f"gradient/{name}"]
        close(seeded.sample(got)[::8], wanted)


@pytest.mark.parametrize(
  "wrong",
  [
    {"size": 40},
    {"width": 2},
    {"latent": 0},
    {"lr": -1.0},
    {"weight_decay": -1.0},
    {"kl": -1.0},
    {"sigma": 0.0},
    {"stages": ()},
    {"stages": ("layer9",)},
    {"stages": ("layer4",)},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("favae", wrong)
