"""Labels of the blocks of an image: what is known of them, and how to learn from them.

A block is what a cell of a grid stands for. Notation: the last axis of logits and probabilities is
that of two classes, normal and anomalous.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float


def labelled(
  mask: Bool[Array, "b h w"], shape: tuple[int, ...], least: float
) -> tuple[Bool[Array, "b h2 w2"], Bool[Array, "b h2 w2"]]:
  """Returns which blocks of a grid are anomalous, and of which it is known whether they are.

  A block is anomalous where a defect covers `least` of it or more, and normal where none does.
  """
  b, h, w = mask.shape
  if h % shape[0] or w % shape[1]:  # blocks that are not of whole pixels
    share = jax.image.resize(mask.astype(jnp.float32), (b, *shape), "linear", antialias=True)
  else:
    share = jnp.mean(mask.reshape(b, shape[0], h // shape[0], shape[1], -1), axis=(2, 4))
  return share >= least, (share >= least) | (share == 0)


def focal(
  logits: Float[Array, "*b 2"], anomalous: Bool[Array, "*b"], alpha: float, gamma: float
) -> Float[Array, "*b"]:
  """Returns -a (1 - p)^gamma log p, p the probability of the class that is right, a `alpha` where
  that is anomalous and 1 - alpha elsewhere.
  """
  log_p = nn.log_softmax(logits)
  log_p = jnp.where(anomalous, log_p[..., 1], log_p[..., 0])
  weight = jnp.where(anomalous, alpha, 1 - alpha)
  return -weight * (1 - jnp.exp(log_p)) ** gamma * log_p


def sharpen(q: Float[Array, "*b k"], temperature: float) -> Float[Array, "*b k"]:
  """Returns probabilities raised to 1/temperature, whose sum is 1 again."""
  return nn.softmax(jnp.log(jnp.maximum(q, 1e-12)) / temperature)
