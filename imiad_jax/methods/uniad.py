"""UniAD: one transformer reconstructs the features of all categories, and cannot copy them.

You, Cui, Shen, Yang, Lu, Zheng, Le: A Unified Model for Multi-class Anomaly Detection. NeurIPS
2022, arXiv 2206.03687. Follows the authors' code: stages of a frozen network, resized to the last
one's grid (corners aligned) and concatenated, are jittered in training; encoder and decoder do not
attend to a token's neighbourhood, and each layer of the decoder asks with queries of its own. The
map is the length of the difference; the image's score the largest mean of a window of the map. For
several categories at once take `multi_class`. A later task goes on with weights and optimiser.

What differs: the default network is EfficientNet-B5, where the authors take B4, which is not among
the backbones; the last epoch is used, where the authors keep the one that tests best.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from imiad_jax.errors import UserError
from imiad_jax.heads import maps
from imiad_jax.heads.query_transformer import Reconstructor
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for: on 8 x 8 cells a window of 7 would hide nearly everything.
SMALL = {
  "stages": ("layer1", "layer2", "layer3"),
  "neighbours": 3,
  "width": 128,
  "hidden": 256,
  "layers": 2,
  "dropout": 0.0,
  "size": 128,
  "epochs": 40,
  "batch": 8,
  "lr": 1e-3,
}


class State(NamedTuple):
  """The transformer and what trains it."""

  params: Any
  optimiser: Any
  key: Array


def jittered(key: Array, tokens: Float[Array, "b t c"], strength: float) -> Float[Array, "b t c"]:
  """Adds normal noise to each token, `strength` times its length over c."""
  length = jnp.linalg.norm(tokens, axis=-1, keepdims=True)
  scale = strength * length / tokens.shape[-1]
  return tokens + scale * jax.random.normal(key, tokens.shape)


def highest(pixel: Float[Array, "b h w"], window: int) -> Float[Array, " b"]:
  """Returns the largest mean of a map over window x window pixels that all lie in it."""
  for axis in (1, 2):
    shape = tuple(window if i == axis else 1 for i in range(3))
    pixel = jax.lax.reduce_window(pixel, 0.0, jax.lax.add, shape, (1, 1, 1), "VALID") / window
  return jnp.max(pixel, axis=(1, 2))


def Model(
  backbone: str = "efficientnet_b5",
  stages: tuple[str, ...] = ("stem", "layer1", "layer2", "layer3"),
  size: int = 224,
  width: int = 256,
  heads: int = 8,
  hidden: int = 1024,
  layers: int = 4,
  neighbours: int = 7,
  dropout: float = 0.1,
  jitter: float = 20.0,
  window: int = 16,
  epochs: int = 1000,
  batch: int = 8,
  lr: float = 1e-4,
  weight_decay: float = 1e-4,
  clip: float = 0.1,
) -> Method:
  """Builds UniAD.

  Args:
    backbone: a pretrained network.
    stages: its stages, finest first; the last one's grid is that of the tokens.
    size: height and width of the images.
    width: numbers of a token in the transformer, a multiple of `heads` and even.
    heads: of each attention.
    hidden: width of the dense layers between.
    layers: of the encoder, and as many of the decoder.
    neighbours: side of the window around a token that it does not see; odd, and smaller than the
      grid.
    dropout: share of weights and values dropped.
    jitter: noise in training, in lengths of a token over its channels.
    window: side of the mean that the image's score is the largest of, in pixels.
    epochs: passes over each task; the learning rate falls to a tenth after 80 % of them.
    batch: images at once.
    lr: learning rate of AdamW.
    weight_decay: of AdamW.
    clip: largest length of the gradient.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: a grid in which a token sees nothing.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(heads >= 1, "heads", heads, "at least 1")
  need(width >= 1 and width % math.lcm(2, heads) == 0, "width", width, "even, a multiple of heads")
  need(hidden >= 1, "hidden", hidden, "at least 1")
  need(layers >= 1, "layers", layers, "at least 1")
  need(neighbours >= 1 and neighbours % 2 == 1, "neighbours", neighbours, "odd")
  need(0 <= dropout < 1, "dropout", dropout, "at least 0 and below 1")
  need(jitter >= 0, "jitter", jitter, "at least 0")
  need(1 <= window <= size, "window", window, f"between 1 and the size, {size}")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(clip > 0, "clip", clip, "above 0")
  optimiser = optax.chain(
    optax.clip_by_global_norm(clip),
    optax.scale_by_adam(),
    optax.add_decayed_weights(weight_decay),
  )

  def network(shape: tuple[int, ...]) -> Reconstructor:
    return Reconstructor((shape[0], shape[1]), width, heads, hidden, layers, neighbours, dropout)

  def embed(batch: Batch) -> tuple[Float[Array, "b t c"], tuple[int, ...]]:
    """Returns the tokens and the shape of their grid."""
    grid = batch.features[stages[-1]].shape[1:3]
    resize = jax.vmap(lambda x: maps.aligned(x, grid), in_axes=-1, out_axes=-1)
    x = jnp.concatenate([resize(batch.features[s]) for s in stages], axis=-1)
    return x.reshape(len(x), -1, x.shape[-1]), grid

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    del pretrained
    key, params_key = jax.random.split(key)
    h, w, _ = spec.shape(stages[-1])
    if max(h, w) <= neighbours:
      raise UserError(
        f"With neighbours {neighbours} a token sees nothing of a grid of {h} x {w} cells; take "
        f"fewer neighbours, larger images or a finer last stage."
      )
    tokens = jnp.zeros((1, h * w, sum(spec.shape(s)[-1] for s in stages)))
    params = network((h, w)).init(params_key, tokens, train=False)["params"]
    return State(params, optimiser.init(params), key)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, jitter_key, drop_key = jax.random.split(state.key, 3)
    tokens, grid = embed(batch)
    noisy, weight = jittered(jitter_key, tokens, jitter), batch.valid / jnp.sum(batch.valid)

    def loss(params: Any) -> Array:
      rngs = {"dropout": drop_key}
      made: Any = network(grid).apply({"params": params}, noisy, train=True, rngs=rngs)
      return jnp.sum(jnp.mean(jnp.square(made - tokens), axis=(1, 2)) * weight)

    value, gradient = jax.value_and_grad(loss)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    rate = lr * jnp.where(batch.epoch >= 0.8 * epochs, 0.1, 1.0)
    params = jax.tree.map(lambda p, dp: p - rate * dp, state.params, step)
    return State(params, opt, key), {"loss": value}

  def score(state: State, batch: Batch) -> Scores:
    tokens, grid = embed(batch)
    made: Any = network(grid).apply({"params": state.params}, tokens, train=False)
    length = jnp.linalg.norm(made - tokens, axis=-1).reshape(-1, *grid)
    pixel = maps.aligned(length, batch.image.shape[1:3])
    return Scores(highest(pixel, window), pixel)

  return Method(init, update, lambda s: s, score, backbone, stages, size, batch, epochs)
