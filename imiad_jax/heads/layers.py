"""Layers of networks that are trained here, with PyTorch's padding, initial values and batch norm.

Their methods are ported from PyTorch, whose defaults are part of them. Use inside a compact Flax
module; `valid` [b] tells which images of a batch are there, None means evaluation.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import convolution

Init = Callable[..., Array]


def torch_default(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
  """Returns U(+-1/sqrt(fan in)), what PyTorch gives to kernels of convolutions and linear maps."""
  return _uniform(key, shape, math.prod(shape[:-1]), dtype)


def fan_out(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
  """Returns N(0, 2/fan out), what torchvision's ResNets give to their convolutions."""
  deviation = (2 / (math.prod(shape[:-2]) * shape[-1])) ** 0.5
  return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int, dtype: Any = float) -> Array:
  """Returns U(+-1/sqrt(fan in)); drawn flat, which compiles seven times faster than in 4-D."""
  bound = fan_in**-0.5
  flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
  return flat.reshape(shape)


class Conv(nn.Module):
  """A square convolution, [b,h,w,c] to [b,h',w',features]; `padding` zeros on all sides."""

  features: int
  size: int
  stride: int = 1
  padding: int = 0
  bias: bool = True
  start: Init = torch_default

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the convolution of x."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = jnp.asarray(self.param("kernel", self.start, shape))
    if self.size == 1 and self.padding == 0:  # a product of matrices, faster on a CPU
      y = x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
    else:
      y = jnp.asarray(convolution.convolve(x, kernel, self.stride, self.padding))
    return y + _bias(self, self.size**2 * x.shape[-1]) if self.bias else y


class Transposed(nn.Module):
  """A square transposed convolution, [b,h,w,c] to [b,h',w',features], h' = (h - 1) stride - 2
  padding + size.

  Its kernel [size,size,c,features] is that of PyTorch, [c,features,size,size], moved and not
  flipped.
  """

  features: int
  size: int
  stride: int = 1
  padding: int = 0
  bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the transposed convolution of x."""
    fan_in = self.size**2 * self.features  # PyTorch takes the kernel's second axis for the inputs
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = jnp.asarray(self.param("kernel", lambda key: _uniform(key, shape, fan_in)))
    if self.size == self.stride and self.padding == 0:  # cells do not overlap: a matrix product
      b, h, w, c = x.shape
      y = x @ kernel.transpose(2, 0, 1, 3).reshape(c, -1)
      y = y.reshape(b, h, w, self.size, self.size, -1).swapaxes(2, 3)
      y = y.reshape(b, h * self.size, w * self.size, self.features)
    else:
      y = jnp.asarray(convolution.transpose(x, kernel, self.stride, self.padding))
    return y + _bias(self, fan_in) if self.bias else y


class Norm(nn.Module):
  """Batch norm over all axes but the last, of the valid images alone, as PyTorch's defaults are.

  But for the running variance, which is of biased ones where PyTorch's is of unbiased ones. Flax's
  own counts the valid numbers of each channel anew, for which a CPU took as long as for the rest.
  """

  eps: float = 1e-5

  @nn.compact
  def __call__(
    self, x: Float[Array, "b *rest c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b *rest c"]:
    """Returns x normalised: by its own statistics, or where `valid` is None by the running ones."""
    channels = x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones, channels)
    bias = self.param("bias", nn.initializers.zeros, channels)
    means = self.variable("batch_stats", "mean", jnp.zeros, channels)
    variances = self.variable("batch_stats", "var", jnp.ones, channels)
    if valid is None:
      mean, variance = means.value, variances.value
    else:
      there = valid.reshape(-1, *[1] * (x.ndim - 1))
      axes, count = range(x.ndim - 1), jnp.sum(valid) * math.prod(x.shape[1:-1])
      mean = jnp.sum(jnp.where(there, x, 0), axes) / count
      variance = jnp.sum(jnp.where(there, jnp.square(x - mean), 0), axes) / count
      means.value = 0.9 * means.value + 0.1 * mean
      variances.value = 0.9 * variances.value + 0.1 * variance
    return (x - mean) * (jax.lax.rsqrt(variance + self.eps) * scale) + bias


def _bias(module: nn.Module, fan_in: int) -> Array:
  """Returns the bias parameter of a layer, U(+-1/sqrt(fan in)) at first."""
  features = module.features  # pyright: ignore[reportAttributeAccessIssue]
  return module.param("bias", lambda key: _uniform(key, (features,), fan_in))
