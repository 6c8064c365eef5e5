"""PRN's network: feature maps of three scales and their residuals, fused, attended to, decoded.

Zhang, Wu, Wang, Chen, Jiang, CVPR 2023, as far as the public port github.com/xcyao00/PRNet has it,
but for biases before batch norm, which do nothing. Notation: a map is [b,h,w,c], finest first; a
part of an image is one of n x n equal ones that it is cut into. `valid` [b] tells which images of a
batch are there, None means evaluation.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import convolution, maps
from imiad_jax.heads.layers import Conv, Norm

Maps = tuple[Float[Array, "b _h _w _c"], ...]
Valid = Bool[Array, " b"] | None


def resized(x: Float[Array, "b h w c"], shape: tuple[int, ...]) -> Float[Array, "b h2 w2 c"]:
  """Resizes bilinearly to `shape` (h2, w2) with the corners kept."""
  return jax.vmap(lambda x: maps.aligned(x, shape), in_axes=-1, out_axes=-1)(x)


def begin(key: Array, net: nn.Module, *inputs: Any) -> Any:
  """Returns the variables a network begins with, which are PyTorch's.

  Kernels and biases are U(+-1/sqrt(fan in)), where the fan in of attention is 1. All come from one
  draw: one for each would compile slowly.
  """
  shapes: Any = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, None))
  params: dict[Any, Any] = traverse_util.flatten_dict(shapes["params"])
  drawn = jax.random.uniform(key, (sum(x.size for x in params.values()),), minval=-1.0)
  made, at = {}, 0
  for path, x in params.items():
    kernel = params.get((*path[:-1], "kernel"))
    if (*path[:-1], "scale") in params:
      made[path] = jnp.full(x.shape, float(path[-1] == "scale"))
    else:
      fan_in = 1 if kernel is None else math.prod(kernel.shape[:3])
      made[path] = drawn[at : at + x.size].reshape(x.shape) * fan_in**-0.5
    at += x.size
  averages: dict[Any, Any] = traverse_util.flatten_dict(shapes["batch_stats"])
  averages = {k: jnp.full(x.shape, float(k[-1] == "var")) for k, x in averages.items()}
  return {
    "params": traverse_util.unflatten_dict(made),
    "batch_stats": traverse_util.unflatten_dict(averages),
  }


class Grouped(nn.Module):
  """A square convolution of groups of channels, as many as both sides can be parted into.

  Done as one of all channels whose kernel is 0 between groups: on a CPU that is faster.
  """

  features: int
  size: int
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the convolution of x, padded by half of the kernel."""
    c, d = x.shape[-1], self.features
    groups = math.gcd(c, d)
    shape = (self.size, self.size, c // groups, d)  # PyTorch's, moved
    kernel = jnp.asarray(self.param("kernel", nn.initializers.zeros, shape))  # see `begin`
    bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (d,)))
    group_in, group_out = np.arange(c) * groups // c, np.arange(d) * groups // d
    kernel = jnp.where(group_in[:, None] == group_out, jnp.tile(kernel, (1, 1, groups, 1)), 0)
    return jnp.asarray(convolution.convolve(x, kernel, self.stride, self.size // 2)) + bias


class Fusion(nn.Module):
  """Adds to the map of each scale what the other scales say of it."""

  @nn.compact
  def __call__(self, x: Maps) -> Maps:
    """Returns maps of the same shapes."""
    out = []
    for i, to in enumerate(x):
      total, (h, w, c) = to, to.shape[1:]
      for j, m in enumerate(x):
        if j > i:  # coarser: a 1x1 convolution, which may as well come before the resizing
          total += resized(Conv(c, 1, name=f"{j}to{i}")(m), (h, w))
        elif j < i:
          stride = round(m.shape[1] / h)
          total += Grouped(c, stride + 1 | 1, stride, name=f"{j}to{i}")(m)
      out.append(total)
    return tuple(out)


def cut(x: Float[Array, "b h w c"], n: int) -> Float[Array, "b m d"]:
  """Cuts each map into n x n parts, one row each."""
  b, h, w, c = x.shape
  x = x.reshape(b, n, h // n, n, w // n, c).swapaxes(2, 3)
  return x.reshape(b, n * n, -1)


def joined(parts: Float[Array, "b m d"], shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
  """Returns the maps, of `shape` (b, h, w, c), that were cut into parts."""
  b, h, w, c = shape
  n = math.isqrt(parts.shape[1])
  return parts.reshape(b, n, n, h // n, w // n, c).swapaxes(2, 3).reshape(shape)


def divisor(n: int, most: int) -> int:
  """Returns the largest divisor of n that is at most `most`."""
  return max(d for d in range(1, most + 1) if n % d == 0)


class Attention(nn.Module):
  """Self-attention of the parts of an image; queries, keys and values are numbers times theirs.

  With one part the answer is its value.
  """

  parts: int  # along each axis

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns a map of the same shape."""
    tokens = cut(x, self.parts)
    dim = tokens.shape[-1]

    def projected(name: str) -> Array:
      made = self.param(name, nn.initializers.zeros, (2, dim))  # see `begin`
      scale, bias = jnp.asarray(made)
      return tokens * scale + bias

    value = projected("value")
    if self.parts == 1:
      return joined(value, x.shape)
    logits = projected("query") @ projected("key").swapaxes(1, 2) / dim
    return joined(nn.softmax(logits) @ value, x.shape)


class Attended(nn.Module):
  """Attention to 1, 4, 16 and 64 parts at once, or the nearest numbers below that fit the grid,
  then a residual block.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], valid: Valid) -> Float[Array, "b h w c"]:
    """Returns a map of the same shape."""
    c, side = x.shape[-1], math.gcd(*x.shape[1:3])
    seen = [Attention(divisor(side, 2**i), name=f"attention{i}")(x) for i in range(4)]
    x = jnp.concatenate(seen, axis=-1)
    y = Conv(c, 3, padding=1, bias=False, name="conv0")(x)
    y = nn.relu(Norm(name="norm0")(y, valid))
    y = Norm(name="norm1")(Conv(c, 3, padding=1, bias=False, name="conv1")(y), valid)
    return nn.relu(y + Conv(c, 1, name="short")(x))


class Up(nn.Module):
  """Resizes a map to a grid, corners kept, then a convolution, batch norm and ReLU."""

  features: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], shape: tuple[int, ...], valid: Valid
  ) -> Float[Array, "b h2 w2 features"]:
    """Returns a map of `shape` (h2, w2)."""
    x = Conv(self.features, 3, padding=1, bias=False, name="conv")(resized(x, shape))
    return nn.relu(Norm(name="norm")(x, valid))


class Net(nn.Module):
  """From the maps of an image, their residuals and a map coarser still to logits at image size."""

  blocks: int  # of attention at each scale

  @nn.compact
  def __call__(
    self,
    features: Maps,
    residuals: Maps,
    coarsest: Float[Array, "b _h _w _c"],
    shape: tuple[int, ...],
    valid: Valid,
  ) -> Float[Array, "b h w"]:
    """Returns a logit for each pixel of images of `shape` (h, w)."""
    widths = [m.shape[-1] for m in features]
    first = Fusion(name="fusion0")
    both = zip(first(features), first(residuals), strict=True)
    x = []
    for i, pair in enumerate(both):
      m = jnp.concatenate(pair, axis=-1)
      for j in range(self.blocks):
        m = Attended(name=f"attended{i}_{j}")(m, valid)
      x.append(m)
    x = Fusion(name="fusion1")(tuple(x))
    y = coarsest
    for i in reversed(range(len(x))):
      up = Up(widths[i], name=f"up{i}")(y, x[i].shape[1:3], valid)
      y = jnp.concatenate([x[i], up], axis=-1)
      for j in range(2):
        y = Conv(widths[i], 3, padding=1, bias=False, name=f"merge{i}_conv{j}")(y)
        y = nn.relu(Norm(name=f"merge{i}_norm{j}")(y, valid))
    y = Up(widths[0], name="last")(y, shape, valid)
    return Conv(1, 3, padding=1, name="out")(y)[..., 0]
