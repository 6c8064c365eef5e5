"""EfficientAD: what its losses, its statistics and its quantiles promise."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import images
from imiad_jax.backbones import pdn as teachers
from imiad_jax.heads import pdn
from imiad_jax.methods import efficientad
from imiad_jax.types import Batch, Spec
from tests.methods.common import (
  assert_refused,
  assert_same_bits,
  batch,
  first_state,
  frozen,
  jitted,
)
from tests.parity import seeded

TINY = {"width": 8, "bottleneck": 8, "epochs": 6, "sources": 8, "stage": "layer1"}
_PDN = {f"conv{k + 1}": i for k, i in enumerate((0, 3, 6, 8))}
CONVOLUTIONS = {
  "teacher": _PDN,
  "student": _PDN,
  "autoencoder": {
    **{f"encode{k + 1}": 2 * k for k in range(5)},
    "bottleneck": 10,
    **{f"decode{k + 1}": 12 + 4 * k for k in range(7)},
    "decode8": 38,
  },
}  # our names -> places in the original


def named(network: str, kind: str, layer: str) -> str:
  weight = "weight" if kind == "kernel" else "bias"
  return f"{network}.{CONVOLUTIONS[network][layer]}.{weight}"


def seeded_like(tree, network: str):
  """Parameters of one network, as the parity script draws them."""

  def draw(layer: str, kind: str, like) -> jax.Array:
    if kind == "bias":
      return jnp.asarray(seeded.tensor(named(network, kind, layer), like.shape))
    h, w, i, o = like.shape
    drawn = seeded.tensor(named(network, kind, layer), (o, i, h, w))
    return jnp.asarray(drawn.transpose(2, 3, 1, 0))

  return {at: {k: draw(at, k, v) for k, v in layer.items()} for at, layer in tree.items()}


def test_a_step_and_a_map_are_the_originals(monkeypatch):
  channels = 6
  monkeypatch.setitem(pdn.WIDTHS, "small", 8)
  monkeypatch.setattr(teachers, "_FEATURES", channels)
  pictures = [np.round(255 * x).astype("f4") / 255 for x in seeded.images(((256, 256),) * 3)]
  teacher = teachers.Model("pdn_small")
  image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  made = jax.eval_shape(teacher.init, jax.random.key(0), image)["params"]["pdn"]
  weights = {"pdn": seeded_like(made, "teacher")}
  frozen = jax.jit(lambda x: teacher.apply({"params": weights}, x))
  m = efficientad.Model(width=8, bottleneck=8, jitter=0.0, dropout=0.0, sources=1, epochs=2)
  spec = Spec((256, 256, 3), (("teacher", (56, 56, channels)),), 8, 1)
  shapes = jax.eval_shape(lambda key, p: m.init(key, spec, p), jax.random.key(0), weights)
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes._replace(key=jnp.zeros(())))
  trained = {k: {"params": seeded_like(v["params"], k)} for k, v in state.trained.items()}
  grey = np.repeat(pictures[2][..., :1], 3, axis=-1)
  state = state._replace(key=jax.random.key(0), trained=trained, teacher=weights)
  state = state._replace(others=jnp.asarray(np.round(255 * grey), jnp.uint8))

  def row(i: int, x: np.ndarray, epoch: int) -> Batch:
    nothing = jnp.zeros(1, jnp.int32)
    x, region = jnp.asarray(x), jnp.zeros((1, 256, 256), jnp.int32)
    at, valid = jnp.array([i], jnp.int32), jnp.ones(1, bool)
    return Batch(x, nothing, region, at, jnp.int32(epoch), valid, frozen(x))

  update = jax.jit(m.update)
  for i in (0, 1):
    state, _ = update(state, row(i, pictures[i], 0))
  with np.load(Path(__file__).parents[1] / "parity" / "efficientad.npz") as stored:

    def same(name: str, found, tolerance: float = 1e-5) -> None:
      wanted = stored[name]
      error = np.abs(seeded.sample(found) - wanted).max() / np.abs(wanted).max()
      assert error < tolerance, (name, error)

    mean, deviation = efficientad.moments(state)
    same("mean", mean)
    same("std", deviation)
    first = row(0, pictures[0], 1)
    target = (first.features["teacher"] - mean) / deviation
    x = images.standardise(first.image)
    out = pdn.PDN("small", 8, 2 * channels, 56).apply(trained["student"], x)
    guess = pdn.AutoEncoder(channels, 56, 8).apply(trained["autoencoder"], x, train=False)
    same("teacher", target)
    same("student", out)
    same("autoencoder", guess)
    same("hard", efficientad.hardest(jnp.square(target - out[..., :channels]), 0.999))
    state, logs = update(state, first)
    same("loss", logs["loss"])
    for network in ("student", "autoencoder"):
      after, moment = state.trained[network]["params"], state.optimiser[1].mu[network]["params"]
      for layer, kinds in after.items():
        for kind, value in kinds.items():
          same(f"moment/{named(network, kind, layer)}", moment[layer][kind], 1e-4)
          same(f"after/{named(network, kind, layer)}", value, 1e-4)
    state = jax.jit(m.finish)(state)
    same("quantiles", jnp.stack([state.low, state.high], axis=1), 1e-4)
    middle = np.array([0.485, 0.456, 0.406], "f4")
    scores = jax.jit(m.score)(state, row(0, middle + 1.5 * (pictures[0] - middle), 0))
    same("pixel", scores.pixel, 1e-4)
    same("image", scores.image, 1e-4)


def test_the_hardest_are_those_not_below_their_quantile():
  rng = np.random.default_rng(0)
  error = rng.exponential(size=(3, 7, 5, 11)).astype(np.float32)
  for quantile in (0.0, 0.5, 0.99, 0.999):
    found = efficientad.hardest(jnp.asarray(error), quantile)
    for one, value in zip(error, found, strict=True):
      np.testing.assert_allclose(value, one[one >= np.quantile(one, quantile)].mean(), rtol=1e-5)
  np.testing.assert_allclose(
    efficientad.hardest(jnp.asarray(error), 0.0), error.mean((1, 2, 3)), 1e-5
  )
  assert (efficientad.hardest(jnp.asarray(error), 0.9) > error.mean((1, 2, 3))).all()


def measured(rows=range(12), epoch: int = 0, state=None):
  """The State after batches of four rows in one epoch."""
  update = jitted("efficientad")[0]
  state = first_state("efficientad", n=16) if state is None else state
  rows = list(rows)
  for first in range(0, len(rows), 4):
    given = batch("efficientad", rows[first : first + 4])
    state, _ = update(state, given._replace(epoch=jnp.int32(epoch)))
  return state


def features(rows) -> np.ndarray:
  return np.asarray(batch("efficientad", rows).features["layer1"], np.float64)


@pytest.mark.long
def test_the_first_epoch_measures_the_training_rows_and_learns_nothing():
  start, state = first_state("efficientad", n=16), measured()
  assert_same_bits((start.trained, start.optimiser), (state.trained, state.optimiser))
  x = features([r for r in range(12) if r != 9])  # which is held out
  mean, deviation = efficientad.moments(state)
  np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(deviation, x.std((0, 1, 2)), rtol=1e-3)
  normal = (x - mean) / deviation
  np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-3)
  np.testing.assert_allclose(normal.std((0, 1, 2)), 1, rtol=1e-3)


@pytest.mark.parametrize(("n", "used"), [(12, [9]), (8, range(8))])
@pytest.mark.long
def test_quantiles_are_of_held_out_rows_or_else_of_all(n, used):
  state = jitted("efficientad")[1](measured(range(n)))
  image = jnp.round(255 * batch("efficientad", used).image) / 255  # they are kept as bytes
  target = (frozen("efficientad", image)["layer1"] - state.mean) / state.deviation
  x, trained = images.standardise(image), state.trained
  near, far = jnp.split(pdn.PDN("small", 8, 48, 8).apply(trained["student"], x), 2, axis=-1)
  guess = pdn.AutoEncoder(24, 8, 8).apply(trained["autoencoder"], x, train=False)
  for k, error in enumerate((target - near, guess - far)):
    grid = np.mean(np.square(error), axis=-1)
    scaled = 0.1 * (grid - state.low[k]) / (state.high[k] - state.low[k])
    np.testing.assert_allclose(np.quantile(scaled, [0.9, 0.995]), [0, 0.1], atol=1e-4)
  assert not state.present.any() and float(state.count) == 0


def test_a_step_without_training_rows_is_none():
  state = measured()
  update = jitted("efficientad")[0]
  held = batch("efficientad", [9, 9, 9, 9], [True, False, False, False])
  after, _ = update(state, held._replace(epoch=jnp.int32(1)))
  assert_same_bits(state, after)


def test_padding_and_held_out_rows_change_no_step():
  update = jitted("efficientad")[0]
  state = measured()
  valid = [True, True, False, False]
  steps = []
  for rows, told in (([0, 1, 2, 3], valid), ([0, 1, 5, 7], valid), ([0, 1, 9, 9], [True] * 4)):
    given = batch("efficientad", rows, told)._replace(epoch=jnp.int32(1))
    steps.append(update(state, given)[0])
  assert_same_bits(steps[0], steps[1])
  assert_same_bits(steps[0], steps[2])
  changed = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()) > 0, state.trained, steps[0].trained
  )
  assert all(jax.tree.leaves(changed))


def test_colours_change_one_way_at_a_time():
  image = jnp.asarray(np.random.default_rng(0).uniform(0.3, 0.6, (8, 8, 3)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 64)
  views = np.asarray(jax.vmap(efficientad.recoloured, (0, None, None))(keys, image, 0.2))
  same = efficientad.recoloured(keys[0], image, 0.0)
  np.testing.assert_allclose(same, image, atol=1e-6)
  luma = np.array([0.299, 0.587, 0.114])
  grey = np.asarray(image) @ luma
  kinds = set()
  for view in views:
    origins = {"brightness": 0, "contrast": grey.mean(), "saturation": grey[..., None]}
    for kind, origin in origins.items():
      ratio = (view - origin) / (np.asarray(image) - origin)
      if np.ptp(ratio) < 1e-2:
        assert 0.79 < ratio.mean() < 1.21
        kinds.add(kind)
  assert kinds == {"brightness", "contrast", "saturation"}


def test_other_pictures_are_the_middle_of_those_of_a_folder(tmp_path):
  from PIL import Image

  picture = np.zeros((64, 64, 3), np.uint8)
  picture[16:48, 16:48] = 200
  Image.fromarray(picture).save(tmp_path / "a.png")
  kw = {"backbone": "efficientnet_lite0", "stage": "layer1", "width": 4, "bottleneck": 4}
  m = efficientad.Model(**kw, size=32, textures=str(tmp_path))
  spec = Spec((32, 32, 3), (("layer1", (8, 8, 24)),), 8, 1)
  state = jax.jit(m.init, static_argnums=1)(jax.random.key(0), spec, {})
  assert state.others.shape == (1, 32, 32, 3) and (state.others == 200).all()


@pytest.mark.parametrize(
  "wrong",
  [
    {"student": "large"},
    {"hard": 1.0},
    {"epochs": 1},
    {"size": 31},
    {"sources": -1},
    {"stage": "layer9"},
    {"stage": "embedding"},
    {"textures": "/nowhere"},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("efficientad", wrong)
