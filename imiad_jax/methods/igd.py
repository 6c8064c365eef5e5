"""IGD: an auto-encoder of a few numbers, which a Gaussian describes and whose mixtures look real.

Chen, Tian, Pang, Carneiro: Deep One-Class Classification via Interpolated Gaussian Descriptor. AAAI
2022, arXiv 2101.10043. Follows the authors' code of the global model: a frozen network's average
cell, mapped to a few numbers; a decoder; a bounded loss of the distance to the centre, which far
images hardly move; and a critic that has to tell how two images' numbers were mixed, which the
decoder is to leave no trace of. Half of the score is the error of reconstruction (multi-scale
similarity and absolute difference), half the Gaussian's. Batch norm keeps to its first statistics,
as in the authors' code, which never leaves evaluation. A later task goes on from the weights and
the optimisers of the one before, with a centre of its own.

What differs: images are not mirrored, so that the frozen features are computed once; before the
epochs that train, one collects them. The width of the Gaussian is of all images, not the mean over
batches of theirs; the learning rate falls from epoch to epoch, not from step to step. The critic's
guess of each mixture is compared with that mixture, where in the authors' code an axis too many
compares it with all of the batch. Their model of patches, and with it their map, is left out: the
method does not localise here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from imiad_jax import images
from imiad_jax.errors import UserError
from imiad_jax.heads import similarity
from imiad_jax.heads.critic import Critic, Decoder
from imiad_jax.heads.layers import Conv
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "2"  # the centre of SMALL was too old to say anything in 1
# What two CPU cores can pay for.
SMALL = {
  "size": 128,
  "widths": (64, 32, 16, 8),
  "window": 7,
  "weights": (0.0516, 0.3295, 0.3463, 0.2726),
  "epochs": 10,
  "refresh": 1,
  "batch": 8,
  "lr": 3e-4,
}
SPAN = 2.1179 + 2.6400  # of the standardised colours, in the authors' code
_NEAR = 0.1  # the least that a number of the centre is from 0
_KEPT = 0.2  # of an image in its mixture with its reconstruction


class State(NamedTuple):
  """n training rows of the largest task, c channels of the stage, d numbers an image."""

  params: Any  # {"linear", "decoder"}
  critic: Any
  optimiser: Any  # of params
  rival: Any  # optimiser of the critic
  pooled: Float[Array, "n c"]  # the average cell of each training row
  present: Bool[Array, " n"]
  centre: Float[Array, " d"]
  width: Float[Array, ""]  # the mean squared distance from the centre, at least 1
  refreshed: Int[Array, ""]  # the epoch that centre and width are of, 0 if of none of the task
  key: Array


def reconstruction(
  x: Float[Array, "b h w 3"],
  y: Float[Array, "b h w 3"],
  window: int,
  weights: tuple[float, ...],
) -> Float[Array, " b"]:
  """Returns how badly y, of standardised colours, restores x; 0 if it does so exactly."""
  unlike = 1 - similarity.multiscale(x, y, SPAN, window, weights)
  return 0.85 * unlike + 0.15 * jnp.mean(jnp.abs(x - y), axis=(1, 2, 3)) / SPAN


def descriptor(
  z: Float[Array, "b d"], centre: Float[Array, " d"], width: Float[Array, ""]
) -> Float[Array, " b"]:
  """Returns 1 - exp(-|z - centre|^2 / width), between 0 and 1."""
  return 1 - jnp.exp(-jnp.sum(jnp.square(z - centre), axis=1) / width)


def centred(z: Float[Array, "n d"], present: Bool[Array, " n"]) -> Float[Array, " d"]:
  """Returns the mean of those present, each number of it at least 0.1 from 0, unless it is 0."""
  mean = jnp.sum(z, axis=0, where=present[:, None]) / jnp.maximum(jnp.sum(present), 1)
  return jnp.where(jnp.abs(mean) < _NEAR, _NEAR * jnp.sign(mean), mean)


def spread(
  z: Float[Array, "n d"], present: Bool[Array, " n"], centre: Float[Array, " d"]
) -> Float[Array, ""]:
  """Returns the mean squared distance from the centre of those present, at least 1."""
  square = jnp.sum(jnp.square(z - centre), axis=1)
  return jnp.maximum(jnp.sum(square, where=present) / jnp.maximum(jnp.sum(present), 1), 1)


def partners(valid: Bool[Array, " b"]) -> Int[Array, " b"]:
  """Returns the row that each valid one is mixed with: the order of the valid rows, reversed."""
  rows, n = jnp.argsort(~valid), jnp.sum(valid)
  place = jnp.where(valid, n - jnp.cumsum(valid), jnp.arange(len(valid)))
  return jnp.where(valid, rows[place], jnp.arange(len(valid)))


def Model(
  backbone: str = "resnet18",
  stage: str = "layer4",
  size: int = 256,
  latent: int = 128,
  widths: tuple[int, ...] = (512, 512, 256, 128, 64),
  window: int = 11,
  weights: tuple[float, ...] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333),
  epochs: int = 256,
  batch: int = 16,
  lr: float = 1e-4,
  weight_decay: float = 1e-6,
  realism: float = 0.1,
  refresh: int = 10,
) -> Method:
  """Builds IGD.

  Args:
    backbone: a pretrained network.
    stage: its stage whose average cell is encoded.
    size: height and width of the images, a multiple of 2^(widths + 1).
    latent: numbers that an image is encoded by.
    widths: channels of the decoder from its coarsest grid, each half as fine as the next; those of
      the critic are the same.
    window: of the similarity, in pixels, odd.
    weights: of the similarity's scales.
    epochs: passes over each task that train; one before them collects features.
    batch: images at once.
    lr: learning rate at a task's first epoch.
    weight_decay: L2 penalty of the auto-encoder, added to the gradient.
    realism: weight of the critic in the auto-encoder's loss.
    refresh: epochs between two centres. Where images move far in them, all are equally far from
      the old centre, and the Gaussian neither learns nor tells them apart.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  fold = 2 ** (len(widths) + 1)
  need(latent >= 1, "latent", latent, "at least 1")
  need(len(widths) > 0 and min(widths) >= 1, "widths", widths, "one or more, at least 1 each")
  need(size % fold == 0, "size", size, f"a multiple of {fold} with {len(widths)} widths")
  need(window % 2 == 1, "window", window, "odd")
  need(len(weights) > 0, "weights", weights, "one or more")
  coarsest = 2 ** (len(weights) - 1)
  need(
    size % coarsest == 0 and size // coarsest >= window,
    *("size", size, f"a multiple of {coarsest} and at least {coarsest * window}"),
  )
  need(epochs >= 1, "epochs", epochs, "at least 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(realism >= 0, "realism", realism, "at least 0")
  need(refresh >= 1, "refresh", refresh, "at least 1")
  linear, decoder, critic = Conv(latent, 1), Decoder(size, widths), Critic(widths)
  adam = optax.scale_by_adam(b1=0.0, b2=0.9)
  optimiser = optax.chain(optax.add_decayed_weights(weight_decay), adam)

  def encode(params: Any, pooled: Float[Array, "b c"]) -> Float[Array, "b d"]:
    return jnp.asarray(linear.apply({"params": params["linear"]}, pooled[:, None, None]))[:, 0, 0]

  def decode(params: Any, z: Float[Array, "b d"]) -> Float[Array, "b h w 3"]:
    return jnp.asarray(decoder.apply({"params": params["decoder"]}, z))

  def judge(weights: Any, image: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    return jnp.asarray(critic.apply({"params": weights}, image))

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    del pretrained
    shape = spec.shape(stage)
    if len(shape) != 3:
      raise UserError(f'The stage "{stage}" of {backbone} is no grid of cells; take another one.')
    key, *keys = jax.random.split(key, 4)
    n, c = spec.max_train, shape[-1]
    params = {
      "linear": linear.init(keys[0], jnp.zeros((1, 1, 1, c)))["params"],
      "decoder": decoder.init(keys[1], jnp.zeros((1, latent)))["params"],
    }
    judges = critic.init(keys[2], jnp.zeros((1, size, size, 3)))["params"]
    return State(
      params=params,
      critic=judges,
      optimiser=optimiser.init(params),
      rival=adam.init(judges),
      pooled=jnp.zeros((n, c)),
      present=jnp.zeros(n, bool),
      centre=jnp.zeros(latent),
      width=jnp.float32(1),
      refreshed=jnp.int32(0),
      key=key,
    )

  def measure(state: State, epoch: Array) -> State:
    """Returns the State with centre and width of this epoch, if they are due."""
    z = encode(state.params, state.pooled)
    first, centre = state.refreshed == 0, centred(z, state.present)
    width = spread(z, state.present, jnp.where(first, centre, state.centre))
    due = (epoch >= 1) & (first | (epoch >= state.refreshed + refresh))
    return state._replace(
      centre=jnp.where(due, centre, state.centre),
      width=jnp.where(due, width, state.width),
      refreshed=jnp.where(due, epoch, state.refreshed),
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    pooled = jnp.mean(batch.features[stage], axis=(1, 2))
    state = state._replace(
      pooled=state.pooled.at[batch.row].set(pooled, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
    )
    state = measure(state, batch.epoch)
    key, mix_key = jax.random.split(state.key)
    alpha = jax.random.uniform(mix_key, batch.valid.shape, maxval=0.5)
    x, other = images.standardise(batch.image), partners(batch.valid)

    def mean(each: Float[Array, " b"]) -> Array:
      return jnp.sum(each, where=batch.valid) / jnp.sum(batch.valid)

    def loss(params: Any) -> tuple[Array, Any]:
      z = encode(params, pooled)
      mixed = alpha[:, None] * z + (1 - alpha)[:, None] * z[other]
      restored = reconstruction(x, decode(params, z), window, weights)
      far = descriptor(z, state.centre, state.width)
      real = jnp.square(judge(state.critic, decode(params, mixed)))
      return mean(restored + far + realism * real), (mixed, mean(restored), mean(far))

    rate = lr * jnp.maximum(1 - (batch.epoch - 1) / epochs, 0) ** 0.9
    (value, (mixed, restored, far)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    params = jax.tree.map(lambda x, dx: x - rate * dx, state.params, step)

    made, again = decode(params, mixed), decode(params, encode(params, pooled))
    blend = again + _KEPT * (x - again)

    def guess(judges: Any) -> Array:
      told, plain = jnp.square(judge(judges, made) - alpha), jnp.square(judge(judges, blend))
      return mean(told + plain)

    against, rival = adam.update(jax.grad(guess)(state.critic), state.rival)
    judges = jax.tree.map(lambda x, dx: x - rate * dx, state.critic, against)
    trained = (params, judges, opt, rival)
    was = (state.params, state.critic, state.optimiser, state.rival)
    trained = jax.tree.map(lambda new, old: jnp.where(batch.epoch >= 1, new, old), trained, was)
    state = state._replace(
      params=trained[0], critic=trained[1], optimiser=trained[2], rival=trained[3], key=key
    )
    return state, {"loss": value, "reconstruction": restored, "descriptor": far}

  def finish(state: State) -> State:
    return state._replace(present=jnp.zeros_like(state.present), refreshed=jnp.int32(0))

  def score(state: State, batch: Batch) -> Scores:
    z = encode(state.params, jnp.mean(batch.features[stage], axis=(1, 2)))
    x = images.standardise(batch.image)
    error = reconstruction(x, decode(state.params, z), window, weights)
    return Scores(0.5 * error + 0.5 * descriptor(z, state.centre, state.width), None)

  return Method(init, update, finish, score, backbone, (stage,), size, batch, epochs + 1)
