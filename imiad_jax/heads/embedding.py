"""Embeddings of a backbone that is fine-tuned, and the Gaussian of those of normal images.

Notation: b images in a batch, n embeddings in all, d numbers each. The parameters of a backbone are
those of its parts by name, some of which may stay as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax import plugins
from imiad_jax.heads import gaussian

_RIDGE = 1e-5  # of the variance of all directions together


class Tuned(NamedTuple):
  """A pretrained network as its parameters stand at first."""

  params: Any  # parts that are trained
  frozen: Any  # parts that are not
  dim: int  # d


def embedder(backbone: str, stage: str) -> Callable[[Any, Float[Array, "b h w 3"]], Array]:
  """Returns (params, images) -> [b,d]: one stage of a backbone; a grid is averaged over cells."""
  network = plugins.backbone(backbone).Model(backbone)

  def embed(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
    x = network.apply({"params": params}, image)[stage]
    return x if x.ndim == 2 else jnp.mean(x, axis=(1, 2))

  return embed


def start(
  backbone: str, stage: str, frozen: tuple[str, ...], pretrained: Any, image: tuple[int, int, int]
) -> Tuned:
  """Splits pretrained parameters; `image` is (h, w, 3).

  Raises UserError for a part or a stage that the backbone does not have.
  """
  for part in frozen:
    plugins.check(f"part of {backbone}", part, pretrained)
  network = plugins.backbone(backbone).Model(backbone)
  shape = jax.ShapeDtypeStruct((1, *image), jnp.float32)
  stages = jax.eval_shape(lambda p, x: network.apply({"params": p}, x), pretrained, shape)
  plugins.check(f"stage of {backbone}", stage, stages)
  return Tuned(
    params={k: v for k, v in pretrained.items() if k not in frozen},
    frozen={k: v for k, v in pretrained.items() if k in frozen},
    dim=stages[stage].shape[-1],
  )


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """Scales embeddings to unit length."""
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def fit(
  x: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
  """Returns mean and Cholesky factor of the Ledoit-Wolf covariance of the valid rows.

  One or two rows are shrunk by nothing, and embeddings that hardly vary but in a few directions by
  too little for float32: there a small multiple of I makes the covariance invertible.
  """
  mean, covariance = gaussian.ledoit_wolf(x, valid)
  factor, spread = jnp.linalg.cholesky(covariance), jnp.trace(covariance)
  ridge = jnp.where(spread > 0, _RIDGE * spread, 1) * jnp.eye(x.shape[-1])
  good = (jnp.sum(valid) > 2) & jnp.all(jnp.isfinite(factor))
  return mean, jnp.where(good, factor, jnp.linalg.cholesky(covariance + ridge))
