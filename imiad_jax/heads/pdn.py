"""EfficientAD's networks: a patch description network and an auto-encoder that predict a grid.

Batzner, Heckler, Koenig, WACV 2024, arXiv 2303.14535, appendix.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imiad_jax.heads.layers import Conv

KINDS = {  # (kernel, channels in widths) of each convolution; 0: as many as are asked for
  "small": ((4, 1), (4, 2), (3, 2), (4, 0)),
  "medium": ((4, 1), (4, 2), (1, 2), (3, 2), (4, 0), (1, 0)),
}
WIDTHS = {"small": 128, "medium": 256}  # the paper's
FIELD = 33  # pixels on a side that a cell of a PDN sees, with both its pools 2 wide


def stride(size: int, cells: int) -> int:
  """Returns the pixels from cell to cell, a power of two, where `cells` lie in `size` pixels.

  They may leave less than half of the pixels free, as the 56 cells of 4 pixels in 256 do.
  """
  most = (size - 1) // (cells - 1) if cells > 1 else size
  return 1 << (most.bit_length() - 1)


def margins(size: int, cells: int) -> tuple[int, int]:
  """Returns how many cells are free before and after `cells` that lie centred in `size` pixels."""
  free = -(-size // stride(size, cells)) - cells
  return free // 2, free - free // 2


class PDN(nn.Module):
  """A patch description network: convolutions without padding and two average pools.

  The paper's has a stride of 4 and cells of 33 x 33 pixels, 56 x 56 of them in 256 x 256 pixels.
  To predict another grid, the pools widen to the grid's stride, the first one first, and the image
  gets a margin of zeros where there would be too few cells.
  """

  kind: str  # a key of KINDS
  width: int  # channels of the first convolution
  features: int
  cells: int | None = None  # height and width of the grid; None: as many as fit

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the descriptions of normalised images."""
    pools = [2, 2]
    if self.cells:
      doublings = stride(x.shape[1], self.cells).bit_length() - 1
      pools = [1 << (doublings + 1) // 2, 1 << doublings // 2]
      missing = max(0, pools[0] * (pools[1] * (self.cells + 5) + 3) + 3 - x.shape[1])
      around = (missing // 2, missing - missing // 2)
      x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    layers = KINDS[self.kind]
    for i, (size, times) in enumerate(layers, start=1):
      x = Conv(self.width * times or self.features, size, name=f"conv{i}")(x)
      if i < len(layers):
        x = jax.nn.relu(x)
      if i <= len(pools):
        x = _pool(x, pools[i - 1])
    return x[:, : self.cells, : self.cells]


class AutoEncoder(nn.Module):
  """Predicts a grid from the whole image, through a bottleneck of one vector."""

  features: int
  cells: int  # height and width of the grid
  width: int = 64  # of the bottleneck
  dropout: float = 0.2

  @nn.compact
  def __call__(self, x: Float[Array, "b n n c"], train: bool) -> Float[Array, "b m m features"]:
    """Returns the grids of normalised images of 32 pixels or more; `train` needs a key "dropout".

    For 256 pixels it is the authors'; what they write down in pixels follows the size here.
    """
    size, w = x.shape[1], self.width
    for i, features in enumerate((w // 2, w // 2, w, w, w), start=1):
      x = jax.nn.relu(Conv(features, 4, stride=2, padding=1, name=f"encode{i}")(x))
    x = Conv(w, x.shape[1], name="bottleneck")(x)
    sides = [max(1, size // part - (part not in (8, 32))) for part in (64, 32, 16, 8, 4, 2)]
    kept = self._kept([(side + 1) ** 2 for side in sides], len(x)) if train else None
    for i, side in enumerate(sides):
      x = jax.nn.relu(Conv(w, 4, padding=2, name=f"decode{i + 1}")(_resize(x, side)))
      if kept:
        x = jnp.where(kept[i].reshape(x.shape), x / (1 - self.dropout), 0)
    x = jax.nn.relu(Conv(w, 3, padding=1, name="decode7")(_resize(x, self.cells)))
    return Conv(self.features, 3, padding=1, name="decode8")(x)

  def _kept(self, areas: list[int], b: int) -> list[Array]:
    """Returns [b,area,width] of what dropout keeps, in one draw, which is quicker to compile."""
    shape = (b, sum(areas), self.width)
    drawn = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, shape)
    return jnp.split(drawn, np.cumsum(areas)[:-1], axis=1)


def _pool(x: Float[Array, "b h w c"], n: int) -> Float[Array, "b h2 w2 c"]:
  """Averages n x n cells without overlap, many times faster on a CPU than XLA's own window."""
  b, h, w, c = x.shape
  x = x[:, : h // n * n, : w // n * n]
  return jnp.mean(x.reshape(b, h // n, n, w // n, n, c), axis=(2, 4))


def _resize(x: Float[Array, "b n n c"], side: int) -> Float[Array, "b m m c"]:
  """Resizes bilinearly as PyTorch does by default: it skips pixels where it shrinks."""
  return jax.image.resize(x, (len(x), side, side, x.shape[-1]), "bilinear", antialias=False)
