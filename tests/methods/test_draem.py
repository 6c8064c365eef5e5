"""DRAEM: the authors' networks, losses and score, and what is pasted where."""

import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from imiad_jax import textures
from imiad_jax.heads import unet
from imiad_jax.methods import draem
from tests.methods.common import assert_refused, batch, first_state, jitted, kw, learnt, spec
from tests.parity import seeded

TINY = {"width": 8, "marks": 8, "epochs": 80, "lr": 3e-3, "sources": 16}

PARITY = Path(__file__).parents[1] / "parity" / "draem.npz"
NETS = {"restore": (unet.Restorer(4), 3), "segment": (unet.Segmenter(4), 6)}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"} | {
  "mean": "running_mean",
  "var": "running_var",
}


@pytest.fixture(scope="module")
def stored():
  with np.load(PARITY) as file:
    return dict(file)


def inputs():
  """The images, corrupted images and masks of tests/parity/draem.py."""
  clean = np.concatenate(seeded.images(((64, 64),) * 2))
  mask = np.zeros((2, 64, 64), bool)
  mask[0, 10:30, 20:24] = mask[1, 40:, 33:50] = True
  return clean, np.where(mask[..., None], 0.3 * clean + 0.7 * clean[::-1, ::-1], clean), mask


def theirs(net: str, path: tuple[str, ...]) -> str:
  """The name in the authors' code of one of our parameters or averages."""
  block, layer = path[:2] if path[0] != "out" else (path[0], "conv0")
  segment = "_segment" if net == "segment" else ""
  kind, place = re.fullmatch(r"([a-z]+?)(\d*)", block).groups()
  nth, norm = int(layer[-1]), layer.startswith("norm")
  letter = f"{int(place) + (net == 'restore') or 'b'}" if kind in ("up", "merge") else ""
  letter = {"b": "_b"}.get(letter, letter)
  if kind == "down":
    where = f"encoder{segment}.block{int(place) + 1}.{3 * nth + norm}"
  elif kind == "up" and nth == 0:
    where = f"decoder{segment}.up{letter}.{1 + norm}"
  elif kind in ("up", "merge"):
    where = f"decoder{segment}.db{letter}.{3 * (nth - (kind == 'up')) + norm}"
  else:
    where = f"decoder{segment}.fin_out.0"
  return f"{net}.{where}.{LEAVES[path[-1]]}"


def shaped(net, channels):
  return jax.eval_shape(lambda key: unet.begin(key, net, channels), jax.random.key(0))


@functools.cache
def loaded():
  """Our networks' parameters and averages with the seeded weights."""
  made = {"params": {}, "batch_stats": {}}
  for name, (net, channels) in NETS.items():
    shapes = shaped(net, channels)
    for group, tree in shapes.items():
      flat = {}
      for path, x in traverse_util.flatten_dict(tree).items():
        shape = tuple(x.shape[i] for i in (3, 2, 0, 1)) if len(x.shape) == 4 else x.shape
        value = seeded.tensor(theirs(name, path), shape)
        if path[-1] == "mean":  # what theirs adds before batch norm, ours does not
          value = value - bias_before(name, path, shape)
        flat[path] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
      made[group][name] = traverse_util.unflatten_dict(flat)
  return made


def bias_before(name, path, shape):
  conv = (path[0], path[1].replace("norm", "conv"), "bias")
  return seeded.tensor(theirs(name, conv), shape)


@functools.cache
def trained():
  """Restored images, logits, losses in training and their gradients, and the averages after."""
  clean, pasted, mask = map(jnp.asarray, inputs())
  valid, variables = jnp.ones(2, bool), loaded()

  @jax.jit
  def run(params, averages):
    nets = (NETS["restore"][0], NETS["segment"][0])
    restored, logits, averages = draem.both(nets, params, averages, pasted, valid)

    def loss(restored, logits):
      parts = draem.losses(restored, clean, logits, mask, valid)
      return sum(parts.values()), parts

    gradient, parts = jax.grad(loss, (0, 1), has_aux=True)(restored, logits)
    return restored, parts, gradient, averages

  return run(variables["params"], variables["batch_stats"])


def error(got, wanted) -> float:
  return float(np.abs(seeded.sample(got) - wanted).max() / np.abs(wanted).max())


def test_the_networks_are_the_originals(stored):
  _, pasted, _ = inputs()
  variables = loaded()
  kept, x = {}, jnp.asarray(pasted)
  for name, (net, _) in NETS.items():
    mine = {k: v[name] for k, v in variables.items()}
    x, found = net.apply(mine, x, None, capture_intermediates=True, mutable=["intermediates"])
    found = found["intermediates"]
    if name == "restore":
      kept |= {k: found[k]["__call__"][0] for k in ("down4", "up0")} | {"restored": x}
      x = jnp.concatenate([x, pasted], -1)
    else:
      kept |= {k: found[k]["__call__"][0] for k in ("down5", "merge0")} | {"logits": x}
  for name, value in kept.items():
    assert error(value, stored[name]) < 2e-5, name
  score = draem.smoothed_maximum(jax.nn.softmax(kept["logits"])[..., 1], 21)
  np.testing.assert_allclose(score, stored["score"], rtol=1e-5)


def test_losses_and_gradients_are_the_originals(stored):
  restored, parts, gradient, averages = trained()
  np.testing.assert_allclose(restored.min(), stored["lowest"], rtol=1e-4)
  assert restored.min() < -0.5  # the range that SSIM takes is 2 here
  for name, value in parts.items():
    np.testing.assert_allclose(value, stored[f"loss/{name}"], rtol=1e-5)
  clean, pasted, _ = map(jnp.asarray, inputs())
  found = 1 - jnp.mean(draem.structural(pasted, clean))
  np.testing.assert_allclose(found, stored["loss/ssim_images"], rtol=1e-4)
  mean = averages["restore"]["down0"]["norm0"]["mean"]
  mean = mean + bias_before("restore", ("down0", "norm0"), (4,))
  np.testing.assert_allclose(mean, stored["mean"], rtol=1e-4, atol=1e-6)
  for name, value in zip(("restored", "logits"), gradient, strict=True):
    assert error(value, stored[f"gradient/{name}"]) < 2e-3, name


@pytest.mark.parametrize("cells", [(4, 8), (1, 32)])
def test_noise_is_the_originals(cells, stored):
  angle = 2 * np.pi * np.random.RandomState(0).rand(cells[0] + 1, cells[1] + 1)
  gradients = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], -1), jnp.float32)
  y, x = jnp.mgrid[:64, :64].astype(jnp.float32) / 64
  noise = textures.perlin(gradients, y * cells[0], x * cells[1])
  wanted = stored["perlin/{}x{}".format(*cells)]
  np.testing.assert_allclose(seeded.sample(noise), wanted, atol=2e-6)


def test_networks_of_the_papers_widths_have_the_originals_weights(stored):
  for name, net, channels in [
    ("restore", unet.Restorer(128), 3),
    ("segment", unet.Segmenter(64), 6),
  ]:
    made = shaped(net, channels)["params"]
    ours = {k: x.size for k, x in traverse_util.flatten_dict(made).items()}
    scales = sum(n for k, n in ours.items() if k[-1] == "scale")  # as many biases before them
    assert sum(ours.values()) + scales == stored[f"weights/{name}"]


def test_first_values_are_the_authors():
  made = jax.jit(unet.begin, static_argnums=(1, 2))(jax.random.key(0), unet.Restorer(8), 3)
  block = made["params"]["down3"]
  assert 0.0195 < block["conv1"]["kernel"].std() < 0.0205
  assert 0.01 < block["norm1"]["scale"].std() < 0.03
  assert not block["norm1"]["bias"].any()
  assert 0 < np.abs(made["params"]["out"]["bias"]).max() * (9 * 8) ** 0.5 <= 1
  assert (made["batch_stats"]["down3"]["norm1"]["var"] == 1).all()


def test_doubling_keeps_the_corners_and_what_is_linear():
  y, x = jnp.mgrid[:3, :5].astype(jnp.float32)
  got = unet.double(jnp.stack([y, x], -1)[None])[0]
  wanted = np.stack(np.meshgrid(np.linspace(0, 2, 6), np.linspace(0, 4, 10), indexing="ij"), -1)
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_similarity_is_1_of_the_same_and_symmetric():
  a, b = jax.random.uniform(jax.random.key(0), (2, 3, 32, 32, 3))
  np.testing.assert_allclose(draem.structural(a, a), 1, rtol=1e-5)
  np.testing.assert_allclose(draem.structural(a, b), draem.structural(b, a), rtol=1e-5)
  assert (jnp.abs(draem.structural(a, 1 - a)) <= 1).all() and draem.structural(a, b).max() < 0.5


def test_focal_loss_at_known_probabilities():
  mask = jnp.arange(16).reshape(1, 4, 4) % 2 == 0
  sure = jnp.where(jnp.stack([~mask, mask], -1), 30.0, -30.0)
  assert draem.focal(sure, mask)[0] < 1e-9
  np.testing.assert_allclose(draem.focal(0 * sure, mask), 0.25 * np.log(2), rtol=1e-3)


def test_the_score_of_a_constant_map_is_it_and_never_above_the_maximum():
  np.testing.assert_allclose(draem.smoothed_maximum(jnp.full((1, 32, 32), 0.3), 7), 0.3, rtol=1e-5)
  noise = jax.random.uniform(jax.random.key(0), (4, 32, 32))
  score = draem.smoothed_maximum(noise, 7)
  assert (score < noise.max((1, 2))).all() and (score > noise.mean((1, 2))).all()
  np.testing.assert_allclose(draem.smoothed_maximum(noise, 1), noise.max((1, 2)))


def test_what_is_not_masked_stays_and_about_half_is_clean():
  stack = textures.stack(jax.random.key(1), 4, 64, 64)
  image = jax.random.uniform(jax.random.key(2), (64, 64, 3))
  prepare = jax.jit(lambda keys: jax.lax.map(lambda k: draem.corrupt(k, image, stack, 0.3), keys))
  clean, pasted, mask = map(np.asarray, prepare(jax.random.split(jax.random.key(0), 200)))
  np.testing.assert_array_equal(pasted[~mask], clean[~mask])
  assert np.abs(pasted - clean)[mask].mean() > 0.1
  assert 0.4 < mask.any(axis=(1, 2)).mean() < 0.6  # half, but for blots that are empty
  assert 0.2 < (clean != np.asarray(image)).any(axis=(1, 2, 3)).mean() < 0.4


def test_the_learning_rate_falls_to_a_fifth_twice():
  update, _, _ = jitted("draem")
  state = first_state("draem")
  given = batch("draem", range(4))
  epochs = kw("draem")["epochs"]

  def change(epoch):
    after, _ = update(state, given._replace(epoch=jnp.int32(epoch)))
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, state.params)
    return max(map(float, jax.tree.leaves(moved)))

  full = change(0)
  fall = math.ceil(0.8 * epochs)
  assert change(fall - 1) == full
  np.testing.assert_allclose(change(fall), full / 5, rtol=1e-3)
  np.testing.assert_allclose(change(epochs - 1), full / 25, rtol=1e-3)


def test_a_later_task_goes_on_from_the_one_before():
  update, finish, _ = jitted("draem")
  first = learnt("draem")
  second = finish(update(first, batch("draem", range(4), seed=1))[0])
  assert int(second.optimiser.count) == int(first.optimiser.count) + 1 == 3


def test_a_folder_of_textures_takes_the_place_of_drawn_ones(tmp_path):
  for i in range(3):
    Image.new("RGB", (40, 30), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
  given = kw("draem", textures=str(tmp_path))
  state = draem.Model(**given).init(jax.random.key(0), spec("draem"), None)
  assert state.textures.shape == (3, 32, 32, 3)
  assert state.textures[:, 0, 0, 0].tolist() == [0, 80, 160]


@pytest.mark.parametrize(
  "wrong",
  [
    *({"sources": 0}, {"size": 48}, {"width": 0}, {"marks": 0}, {"lr": -1.0}),
    *({"rotated": 1.5}, {"window": 4}, {"textures": "nowhere/at/all"}),
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("draem", wrong)
