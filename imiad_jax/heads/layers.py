"""Layers of networks that are trained here, with PyTorch's padding, initial values and batch norm.

Their methods are ported from PyTorch, whose defaults are part of them. Use inside a compact Flax
module; `valid` [b] tells which images of a batch are there, None means evaluation.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Init = Callable[..., Array]
_LAYOUT = ("NHWC", "HWIO", "NHWC")

torch_default: Init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(+-1/sqrt(fan in)), what PyTorch gives to the kernels of convolutions and linear maps."""

fan_out: Init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2/fan out), what torchvision's ResNets give to their convolutions."""


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
    kernel = self.param("kernel", self.start, shape)
    if self.size == 1 and self.padding == 0:  # a product of matrices, faster on a CPU
      y = x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
    else:
      pads, strides = [(self.padding, self.padding)] * 2, (self.stride, self.stride)
      y = lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)
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
    bound = fan_in**-0.5
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param(
      "kernel", lambda key: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    )
    pad = self.size - 1 - self.padding
    y = lax.conv_general_dilated(
      *(x, kernel[::-1, ::-1], (1, 1), [(pad, pad)] * 2),
      lhs_dilation=(self.stride, self.stride),
      dimension_numbers=_LAYOUT,
    )
    return y + _bias(self, fan_in) if self.bias else y


class Norm(nn.Module):
  """Batch norm over all axes but the last, of the valid images alone, as PyTorch's defaults are."""

  eps: float = 1e-5

  @nn.compact
  def __call__(
    self, x: Float[Array, "b *rest c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b *rest c"]:
    """Returns x normalised: by its own statistics, or where `valid` is None by the running ones."""
    mask = None if valid is None else valid.reshape(-1, *[1] * (x.ndim - 1))
    norm = nn.BatchNorm(
      use_running_average=valid is None,
      momentum=0.9,
      epsilon=self.eps,
      use_fast_variance=False,
      name="norm",
    )
    return norm(x, mask=mask)


def _bias(module: nn.Module, fan_in: int) -> Array:
  """Returns the bias parameter of a layer, U(+-1/sqrt(fan in)) at first."""
  bound, features = fan_in**-0.5, module.features  # pyright: ignore[reportAttributeAccessIssue]
  return module.param(
    "bias", lambda key: jax.random.uniform(key, (features,), jnp.float32, -bound, bound)
  )
