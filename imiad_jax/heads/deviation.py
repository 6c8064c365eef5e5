"""Deviation networks: scores that are 0 for normal images and far above a normal sample for others.

Pang, Shen, van den Hengel: Deep Anomaly Detection with Deviation Networks. KDD 2019, arXiv
1911.08623. An image's score is the mean of its strongest cells, at several scales of the image.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from imiad_jax import images, plugins
from imiad_jax.errors import UserError

MARGIN = 5.0  # of anomalies' scores, in deviations of the reference
REFERENCE = 5000  # scores drawn from N(0, 1)


def grids(
  backbone: str, stage: str, scales: int
) -> Callable[[Any, Float[Array, "b h w 3"]], list[Array]]:
  """Returns (params, images) -> a backbone's stage [b,h',w',d] of the images and of smaller ones.

  Each scale is half as large as the one before. Raises UserError unless the stage is a grid.
  """
  network = plugins.backbone(backbone).Model(backbone)

  @jax.jit
  def look(params: Any, image: Float[Array, "b h w 3"]) -> list[Array]:
    seen = [network.apply({"params": params}, shrink(image, 2**s)) for s in range(scales)]
    plugins.check(f"stage of {backbone}", stage, seen[0])
    if seen[0][stage].ndim != 4:
      raise UserError(f'The stage "{stage}" of {backbone} is no grid of cells; take another one.')
    return [stages[stage] for stages in seen]

  return look


def split(backbone: str, trained: tuple[str, ...], pretrained: Any) -> tuple[Any, Any]:
  """Returns a backbone's parameters by part: of those that are trained, and of the others.

  Raises UserError for a part that the backbone does not have.
  """
  for part in trained:
    plugins.check(f"part of {backbone}", part, pretrained)
  parts = {part: pretrained[part] for part in trained}
  return parts, {part: value for part, value in pretrained.items() if part not in trained}


def turn(key: Array, image: Float[Array, "b h w 3"], degrees: float) -> Float[Array, "b h w 3"]:
  """Turns images by angles of up to so many degrees either way; what comes from outside is 0."""
  if degrees == 0:
    return image
  angle = math.radians(degrees) * jax.random.uniform(key, (len(image),), minval=-1)
  return jax.vmap(images.rotate)(image, angle)


def shrink(image: Float[Array, "b h w c"], fold: int) -> Float[Array, "b h2 w2 c"]:
  """Returns images 1/fold as large, of the nearest pixels, as PyTorch's interpolate does it."""
  rows, columns = (np.arange(n // fold) * n // (n // fold) for n in image.shape[1:3])
  return image[:, rows][:, :, columns]


def strongest(grid: Float[Array, "b h w"], share: float) -> Float[Array, " b"]:
  """Returns the mean of the largest values: of a share of them, rounded down, at least of one."""
  flat = grid.reshape(len(grid), -1)
  return jnp.mean(jax.lax.top_k(flat, max(int(flat.shape[1] * share), 1))[0], axis=1)


def reference(key: Array) -> Float[Array, " 5000"]:
  """Draws the scores that others are compared with."""
  return jax.random.normal(key, (REFERENCE,))


def loss(
  score: Float[Array, "*b"], high: Float[Array, "*b"], drawn: Float[Array, " n"]
) -> Float[Array, "*b"]:
  """Returns the deviation loss of each score.

  With dev the score's distance from the mean of the reference `drawn` in its (unbiased) standard
  deviations, that is |dev| where `high` is 0, and max(0, MARGIN - dev) where it is 1.
  """
  dev = (score - jnp.mean(drawn)) / jnp.std(drawn, ddof=1)
  return (1 - high) * jnp.abs(dev) + high * jnp.maximum(MARGIN - dev, 0)


def balance(told: Int[Array, " n"], label: Int[Array, " b"], share: float) -> Float[Array, " b"]:
  """Returns weights under which rows drawn as they come have a share of anomalies in expectation.

  `told` are the labels of a task's rows, -1 where there is none yet; while all of them are alike
  the weights are 1.
  """
  rate = jnp.sum(told == 1) / jnp.maximum(jnp.sum(told >= 0), 1)
  mixed = (rate > 0) & (rate < 1)
  weight = jnp.where(label == 1, share / rate, (1 - share) / (1 - rate))
  return jnp.where(mixed, weight, 1)


def optimise(weight_decay: float) -> optax.GradientTransformation:
  """Returns the authors' optimiser but for the learning rate: clipping, L2 penalty, Adam."""
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.add_decayed_weights(weight_decay), optax.scale_by_adam()
  )


def rate(lr: float, drops: int, epoch: Array, epochs: int) -> Array:
  """Returns the learning rate of an epoch: it falls to a tenth `drops` times, equally far apart."""
  return lr * 0.1 ** ((drops + 1) * epoch // epochs)
