"""A convolution whose gradients a CPU computes fast, inside compiled loops too.

XLA for CPUs has fast code for convolutions [b,h,w,c] with kernels [size,size,c,d], and rewrites
others to that layout only outside loops. Gradients as JAX derives them are others: in a loop they
take several times as long. Here they are written in that layout.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Kernel = Float[Array, "size size c d"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
  x: Float[Array, "b h w c"], kernel: Kernel, stride: int = 1, padding: int = 0
) -> Float[Array, "b h2 w2 d"]:
  """Returns the convolution of x, with `padding` zeros on all sides.

  Differentiable in reverse mode only.
  """
  return _plain(x, kernel, stride, padding)


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  pads = [(padding, padding)] * 2
  return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT)


def _forward(x: Array, kernel: Array, stride: int, padding: int):
  return _plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, kept: tuple[Array, Array], g: Array):
  derived = functools.partial(_derived, stride=stride, padding=padding)
  written = functools.partial(_written, stride=stride, padding=padding)
  return lax.platform_dependent(*kept, g, cpu=written, default=derived)


convolve.defvjp(_forward, _backward)


def _derived(x: Array, kernel: Array, g: Array, stride: int, padding: int) -> tuple[Array, Array]:
  """Returns the gradients of x and kernel as JAX derives them."""
  plain = functools.partial(_plain, stride=stride, padding=padding)
  return jax.vjp(plain, x, kernel)[1](g)


def _written(x: Array, kernel: Array, g: Array, stride: int, padding: int) -> tuple[Array, Array]:
  """Returns the same gradients as convolutions in XLA's own layout."""
  size = len(kernel)
  spread = [(n - 1) * stride + 1 for n in g.shape[1:3]]  # of g, with zeros between its cells
  before = size - 1 - padding
  pads = [(before, n - m - before + size - 1) for n, m in zip(x.shape[1:3], spread, strict=True)]
  dx = lax.conv_general_dilated(
    *(g, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), (1, 1), pads),
    lhs_dilation=(stride, stride),
    dimension_numbers=_LAYOUT,
  )
  pads = [(padding, size - 1 + m - n - padding) for n, m in zip(x.shape[1:3], spread, strict=True)]
  dkernel = lax.conv_general_dilated(
    *(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), pads),
    rhs_dilation=(stride, stride),
    dimension_numbers=_LAYOUT,
  )
  return dx, dkernel.transpose(1, 2, 0, 3)
