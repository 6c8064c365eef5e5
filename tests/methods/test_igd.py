"""IGD: its similarity, Gaussian and mixtures, what its steps move, and the original's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax import images
from imiad_jax.heads import similarity
from imiad_jax.heads.critic import Critic, Decoder
from imiad_jax.methods import igd
from tests.methods.common import assert_refused, assert_same_bits, batch, first_state, jitted
from tests.parity import seeded

# With fewer numbers or a larger rate some good images lie far from the centre that a dozen give.
TINY = {
  "widths": (8, 8),
  "window": 3,
  "latent": 32,
  "epochs": 20,
  "refresh": 1,
  "lr": 1e-3,
}

STORED = Path(__file__).parent.parent / "parity" / "igd.npz"
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def test_an_image_restored_exactly_has_no_error():
  rng = np.random.default_rng(0)
  x, y = (jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32) for _ in range(2))
  weights = (0.5, 0.5)
  np.testing.assert_allclose(igd.reconstruction(x, x, 5, weights), 0, atol=1e-6)
  near, far = (igd.reconstruction(x, x + s * y, 5, weights) for s in (0.1, 1.0))
  assert bool((near > 0.001).all()) and bool((far > 2 * near).all())
  negative = jax.grad(lambda y: igd.reconstruction(x, y, 5, weights).sum())(-x)
  assert bool(jnp.isfinite(negative).all())


def test_similarity_is_that_of_windows_that_fit():
  rng = np.random.default_rng(0)
  x, y = (rng.normal(size=(1, 6, 7, 1)).astype(np.float32) for _ in range(2))
  t = np.arange(3) - 1
  weight = np.exp(-(t**2) / 4.5)
  weight = np.outer(weight, weight) / weight.sum() ** 2
  parts = []
  for i in range(4):
    for j in range(5):
      a, b = (v[0, i : i + 3, j : j + 3, 0] for v in (x, y))
      ma, mb = (weight * a).sum(), (weight * b).sum()
      va, vb = (weight * a * a).sum() - ma**2, (weight * b * b).sum() - mb**2
      contrast = (2 * ((weight * a * b).sum() - ma * mb) + 0.0036) / (va + vb + 0.0036)
      parts.append(((2 * ma * mb + 0.0004) / (ma**2 + mb**2 + 0.0004) * contrast, contrast))
  got = similarity.compare(jnp.asarray(x), jnp.asarray(y), 2.0, 3)
  np.testing.assert_allclose(np.ravel(got), np.mean(parts, axis=0), rtol=1e-4)


def test_the_descriptor_is_bounded_and_grows_with_the_distance():
  z = jnp.array([[1.0, 2.0], [1.0, 3.0], [9.0, 9.0]])
  got = igd.descriptor(z, jnp.array([1.0, 2.0]), jnp.float32(2))
  np.testing.assert_allclose(got, [0, 1 - np.exp(-0.5), 1], atol=1e-6)


def test_no_number_of_the_centre_is_near_0_and_the_width_is_at_least_1():
  z = jnp.array([[0.02, -0.5, 0.0, -0.03], [0.06, -0.1, 0.0, -0.01], [7.0, 7.0, 7.0, 7.0]])
  present = jnp.array([True, True, False])
  centre = igd.centred(z, present)
  np.testing.assert_allclose(centre, [0.1, -0.3, 0, -0.1], rtol=1e-6)
  assert igd.spread(z, present, centre) == 1
  wide = igd.spread(10 * z, present, 10 * centre)
  np.testing.assert_allclose(wide, np.mean(np.sum((10 * z - 10 * centre)[:2] ** 2, 1)), rtol=1e-5)


def test_valid_images_are_mixed_in_reversed_order():
  assert igd.partners(jnp.ones(4, bool)).tolist() == [3, 2, 1, 0]
  valid = jnp.array([True, False, True, True, False])
  assert igd.partners(valid).tolist() == [3, 1, 2, 0, 4]


@pytest.mark.long
def test_the_first_epoch_collects_and_the_next_trains_from_the_centre_on():
  update, finish, _ = jitted("igd")
  first, rows = first_state("igd"), batch("igd", range(4))
  collected, _ = update(first, rows)
  assert_same_bits((first.params, first.critic), (collected.params, collected.critic))
  assert collected.present.sum() == 4 and int(collected.refreshed) == 0
  trained, _ = update(collected, rows._replace(epoch=jnp.int32(1)))
  assert int(trained.refreshed) == 1 and float(jnp.abs(trained.centre).min()) >= 0.1
  for name in ("params", "critic"):
    before, after = getattr(first, name), getattr(trained, name)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(moved))
  kept, _ = update(trained, rows._replace(epoch=jnp.int32(1)))
  assert_same_bits(kept.centre, trained.centre)
  later, _ = update(kept, rows._replace(epoch=jnp.int32(2)))
  assert int(later.refreshed) == 2 and bool((later.centre != kept.centre).any())
  again = finish(later)
  assert not again.present.any() and int(again.refreshed) == 0
  assert_same_bits((again.centre, again.width), (later.centre, later.width))


def theirs(name: str, shape) -> jnp.ndarray:
  value = seeded.tensor(name, shape)
  axes = {4: (2, 3, 1, 0), 3: (1, 2, 0), 2: (1, 0), 1: (0,)}[len(shape)]
  return jnp.asarray(value.transpose(axes))


def original(net: str, name: str, like) -> jnp.ndarray:
  """The seeded value of a parameter of ours, `name` in PyTorch, under PyTorch's layout of it."""
  axes = {4: (3, 2, 0, 1), 3: (2, 0, 1), 1: (0,)}[like.ndim]
  shape = tuple(like.shape[i] for i in axes)
  if ".ln1" in f".{name}" and like.ndim == 4:  # a linear map
    return theirs(net + name, shape[:2])[None, None]
  return theirs(net + name, shape)


NAMES = {
  "norm1": "bn1",
  "norm2": "bn2",
  "scale": "weight",
  "kernel": "weight",
  "LayerNorm_0": "",
}


def path_of(path, ups: bool) -> str:
  """The name in PyTorch of a parameter of the decoder (`ups`) or of the critic."""
  names = [p.key for p in path]
  first, leaf = names[0], NAMES.get(names[-1], names[-1])
  if first.startswith("block"):
    layer = f"rb{first[5:]}.{NAMES.get(names[1], names[1])}"
    layer = layer.replace("conv1", "conv_1").replace("conv2", "conv_2")
    layer = layer.replace("shortcut", "conv_shortcut")
    wrapped = {"conv_1": ups, "conv_2": not ups, "conv_shortcut": True}
    inner = wrapped.get(layer.split(".")[1])
    return f"{layer}{'' if inner is None else '.conv.conv' if inner else '.conv'}.{leaf}"
  own = {"linear": "ln1", "norm": "bn", "first": "up1.conv.conv", "last": "up2.conv.conv"}
  if not ups:
    own = {"linear": "ln1", "first": "conv1.conv", "last": "conv2.conv"}
  return f"{own[first]}.{leaf}"


def shuffled(value, grid: int):
  """A linear map's numbers of [c,h,w], as PyTorch lays cells out, in the order [h,w,c]."""
  c = value.shape[-1] // grid**2
  cells = value.reshape(*value.shape[:-1], c, grid, grid)
  return jnp.moveaxis(cells, -3, -1).reshape(value.shape)


@pytest.mark.long
def test_images_losses_and_gradients_are_those_of_the_original():
  widths, latent = (32, 32, 16, 8, 4), 6
  decoder, critic = Decoder(256, widths), Critic(widths)

  def begin(net, ups: bool, like):
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), like)["params"]
    who = "generator." if ups else "critic."
    return jax.tree_util.tree_map_with_path(
      lambda path, x: original(who, path_of(path, ups), x), shapes
    )

  made = begin(decoder, True, jnp.zeros((1, latent)))
  made["linear"] = {k: shuffled(v, 4) for k, v in made["linear"].items()}
  judges = begin(critic, False, jnp.zeros((1, 256, 256, 3)))
  kernel = judges["linear"]["kernel"]
  judges["linear"]["kernel"] = shuffled(kernel[..., 0], 4)[..., None]
  linear = {n: theirs(f"generator.ln11.{n}", s) for n, s in (("weight", (6, 512)), ("bias", (6,)))}
  x = images.standardise(jnp.asarray(np.concatenate(seeded.images(((256, 256),) * 3))))
  alpha = jnp.asarray(np.random.default_rng(1).uniform(0, 0.5, 3).astype("f4"))
  pooled = jnp.asarray(seeded.tensor("pooled", (3, 512)) * 512**0.5)
  centre, width = jnp.asarray(seeded.tensor("centre", (latent,))), jnp.float32(3)

  @jax.jit
  def decode(made, z):
    return decoder.apply({"params": made}, z)

  @jax.jit
  def judge(judges, image):
    return critic.apply({"params": judges}, image)

  def loss(params):
    linear, made = params
    z = pooled @ linear["weight"] + linear["bias"]
    mixed = alpha[:, None] * z + (1 - alpha)[:, None] * z[igd.partners(jnp.ones(3, bool))]
    fake, mixture = decode(made, z), decode(made, mixed)
    restored = igd.reconstruction(x, fake, 11, WEIGHTS).mean()
    judged, far = judge(judges, mixture), igd.descriptor(z, centre, width)
    total = restored + far.mean() + 0.1 * jnp.mean(judged**2)
    return total, (fake, mixture, judged, restored, far)

  def guess(judges, fake, mixture):
    told = jnp.square(judge(judges, mixture) - alpha)
    return jnp.mean(told) + jnp.mean(judge(judges, fake + 0.2 * (x - fake)) ** 2)

  (total, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))((linear, made))
  fake, mixture, judged, restored, far = out
  told, of_critic = jax.jit(jax.value_and_grad(guess))(judges, fake, mixture)
  gradients = {
    "ln11.weight": gradient[0]["weight"],
    "up1.conv.conv.weight": gradient[1]["first"]["kernel"],
    "rb3.conv_shortcut.conv.conv.weight": gradient[1]["block3"]["shortcut"]["kernel"],
    "bn.weight": gradient[1]["norm"]["scale"],
    "critic": of_critic["block2"]["conv1"]["kernel"],
  }
  with np.load(STORED) as stored:
    wanted = stored["image"]
    np.testing.assert_allclose(seeded.sample(fake), wanted, atol=1e-5 * np.abs(wanted).max())
    numbers = {"judged": judged, "restored": restored, "far": far, "loss": total, "guess": told}
    for name, value in numbers.items():
      np.testing.assert_allclose(value, stored[name], rtol=1e-4, err_msg=name)
    for name, value in gradients.items():
      wanted = stored[f"gradient/{name}"]
      atol = 1e-3 * np.abs(wanted).max()
      np.testing.assert_allclose(seeded.sample(value), wanted, atol=atol, err_msg=name)


@pytest.mark.parametrize(
  "wrong",
  [
    {"stage": "layer9"},
    {"stage": "embedding"},
    {"size": 36},
    {"latent": 0},
    {"widths": ()},
    {"window": 4},
    {"weights": ()},
    {"lr": -1.0},
    {"weight_decay": -1.0},
    {"realism": -1.0},
  ],
)
def test_nonsense_is_refused_by_name(wrong):
  assert_refused("igd", wrong)
