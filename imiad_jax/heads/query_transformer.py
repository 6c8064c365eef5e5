"""A transformer that reconstructs tokens which it must not copy (UniAD, arXiv 2206.03687).

Notation: tokens are [b,t,d], the cells of an h x w grid row by row, t = hw. An attention does not
see a token's own neighbourhood; a decoder layer asks with queries it has learnt, one for each cell.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imiad_jax.heads.layers import Init

Tokens = Float[Array, "b t d"]


def xavier(parts: int = 1) -> Init:
  """Returns U(+-sqrt(6 / (fan in + parts times fan out))): parts are drawn as one layer's."""

  def draw(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    bound = math.sqrt(6 / (shape[0] + parts * shape[1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return draw


def visible(h: int, w: int, side: int) -> Bool[np.ndarray, "t t"]:
  """Returns which tokens (second axis) each token sees: those outside a window of side x side."""
  y, x = np.divmod(np.arange(h * w), w)
  near = (np.abs(y[:, None] - y) <= side // 2) & (np.abs(x[:, None] - x) <= side // 2)
  return ~near


class Attention(nn.Module):
  """Multi-head attention as PyTorch has it, with its initial values."""

  heads: int
  dropout: float

  @nn.compact
  def __call__(
    self, query: Tokens, key: Tokens, value: Tokens, mask: Bool[np.ndarray, "t t"], train: bool
  ) -> Tokens:
    """Returns what each query sees of the values; dropout acts on the weights."""
    b, t, d = key.shape
    project = [nn.Dense(d, kernel_init=xavier(3), name=name) for name in ("query", "key", "value")]
    split = lambda x: x.reshape(b, t, self.heads, d // self.heads)  # noqa: E731
    q, k, v = (split(net(x)) for net, x in zip(project, (query, key, value), strict=True))
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(d // self.heads)
    weight = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=-1)
    weight = nn.Dropout(self.dropout)(weight, deterministic=not train)
    seen = jnp.einsum("bhqk,bkhc->bqhc", weight, v).reshape(b, t, d)
    return nn.Dense(d, kernel_init=xavier(), name="out")(seen)


class Layer(nn.Module):
  """Attentions and then two dense layers, each added to what came in and normalised after it."""

  heads: int
  hidden: int
  dropout: float
  asks: bool  # as the decoder's layers do

  @nn.compact
  def __call__(
    self, x: Tokens, memory: Tokens, place: Float[Array, "t d"], mask: np.ndarray, train: bool
  ) -> Tokens:
    """Returns the next x; the encoder's layers do not use `memory`."""
    drop = lambda x: nn.Dropout(self.dropout)(x, deterministic=not train)  # noqa: E731
    norm = lambda i: nn.LayerNorm(1e-5, use_fast_variance=False, name=f"norm{i}")  # noqa: E731
    dense = lambda n, i: nn.Dense(n, kernel_init=xavier(), name=f"dense{i}")  # noqa: E731
    own, sources = x, [x]
    if self.asks:
      own = self.param("asked", nn.initializers.normal(1.0), place.shape)
      own, sources = jnp.broadcast_to(own, x.shape), [memory, x]
    for i, source in enumerate(sources):
      attend = Attention(self.heads, self.dropout, name=f"attend{i}")
      seen = attend(own + place, source + place, source, mask, train)
      own = norm(i)(own + drop(seen))
    inner = drop(jax.nn.relu(dense(self.hidden, 0)(own)))
    return norm(len(sources))(own + drop(dense(x.shape[-1], 1)(inner)))


class Reconstructor(nn.Module):
  """Tokens of c numbers to as many of the same shape, `layers` of encoder and decoder each."""

  grid: tuple[int, int]
  width: int
  heads: int
  hidden: int
  layers: int
  side: int  # of the neighbourhood that is not seen
  dropout: float

  @nn.compact
  def __call__(self, tokens: Float[Array, "b t c"], train: bool) -> Float[Array, "b t c"]:
    """Returns the reconstruction; `train` needs a key "dropout"."""
    h, w = self.grid
    mask, half = visible(h, w, self.side), self.width // 2
    rows = self.param("rows", nn.initializers.uniform(1.0), (h, half))
    columns = self.param("columns", nn.initializers.uniform(1.0), (w, half))
    place = jnp.concatenate([jnp.tile(columns, (h, 1)), jnp.repeat(rows, w, axis=0)], axis=-1)
    x = nn.Dense(self.width, kernel_init=xavier(), name="input")(tokens)
    common = (self.heads, self.hidden, self.dropout)
    for i in range(self.layers):
      x = Layer(*common, asks=False, name=f"encoder{i}")(x, x, place, mask, train)
    memory = x
    for i in range(self.layers):
      x = Layer(*common, asks=True, name=f"decoder{i}")(x, memory, place, mask, train)
    x = nn.LayerNorm(1e-5, use_fast_variance=False, name="norm")(x)
    return nn.Dense(tokens.shape[-1], kernel_init=xavier(), name="output")(x)
