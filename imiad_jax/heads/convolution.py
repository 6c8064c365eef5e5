"""Convolutions, straight and transposed, that a CPU computes fast inside compiled loops too.

XLA for CPUs has fast code for one layout, [b,h,w,c] by kernels [size,size,c,d] without dilation,
and rewrites others to it only outside loops: in a loop the gradients that JAX derives were measured
to take a hundred times as long. For CPUs all are written in that layout here.
Differentiable in reverse mode only.
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
  """Returns the convolution of x, with `padding` zeros on all sides."""
  return _plain(x, kernel, stride, padding)


def _convolve_forward(x: Array, kernel: Array, stride: int, padding: int):
  return _plain(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride: int, padding: int, kept: tuple[Array, Array], g: Array):
  x, kernel = kept

  def derived(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    return jax.vjp(lambda x, k: _plain(x, k, stride, padding), x, kernel)[1](g)

  def written(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    dx = _to_input(g, kernel, x.shape[1:3], stride, padding)
    return dx, _to_kernel(x, g, len(kernel), stride, padding)

  return lax.platform_dependent(x, kernel, g, cpu=written, default=derived)


convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def transpose(
  x: Float[Array, "b h w c"], kernel: Kernel, stride: int = 1, padding: int = 0
) -> Float[Array, "b h2 w2 d"]:
  """Returns the transposed convolution of x: h2 = (h - 1) stride - 2 padding + size.

  Each cell adds the kernel, weighted by its channels, to a patch of the output, of which then
  `padding` rows and columns are cut off on all sides.
  """
  swapped = jnp.swapaxes(kernel, 2, 3)
  shape = tuple((n - 1) * stride - 2 * padding + len(kernel) for n in x.shape[1:3])

  def derived(x: Array, swapped: Array) -> Array:
    zeros = jnp.zeros((x.shape[0], *shape, swapped.shape[2]), x.dtype)
    return jax.vjp(lambda y: _plain(y, swapped, stride, padding), zeros)[1](x)[0]

  def written(x: Array, swapped: Array) -> Array:
    return _to_input(x, swapped, shape, stride, padding)

  return lax.platform_dependent(x, swapped, cpu=written, default=derived)


def _transpose_forward(x: Array, kernel: Array, stride: int, padding: int):
  return transpose(x, kernel, stride, padding), (x, kernel)


def _transpose_backward(stride: int, padding: int, kept: tuple[Array, Array], g: Array):
  x, kernel = kept
  dx = _plain(g, jnp.swapaxes(kernel, 2, 3), stride, padding)
  return dx, jnp.swapaxes(_to_kernel(g, x, len(kernel), stride, padding), 2, 3)


transpose.defvjp(_transpose_forward, _transpose_backward)


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  pads = [(padding, padding)] * 2
  return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT)


def _to_input(g: Array, kernel: Array, shape: tuple[int, ...], stride: int, padding: int) -> Array:
  """Returns the gradient of an input [b,*shape,c] whose convolution has the gradient g."""
  g, before = _spread(g, stride), len(kernel) - 1 - padding
  pads = [(before, n - m + padding) for n, m in zip(shape, g.shape[1:3], strict=True)]
  flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
  return lax.conv_general_dilated(g, flipped, (1, 1), pads, dimension_numbers=_LAYOUT)


def _to_kernel(x: Array, g: Array, size: int, stride: int, padding: int) -> Array:
  """Returns the gradient of the kernel of a convolution of x that has the gradient g."""
  g = _spread(g, stride)
  pads = [
    (padding, size - 1 + m - n - padding) for n, m in zip(x.shape[1:3], g.shape[1:3], strict=True)
  ]
  images, cells = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
  found = lax.conv_general_dilated(images, cells, (1, 1), pads, dimension_numbers=_LAYOUT)
  return found.transpose(1, 2, 0, 3)


def _spread(g: Array, stride: int) -> Array:
  """Returns g with stride - 1 zeros between its cells."""
  between = (0, 0, stride - 1)
  return lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), between, between, (0, 0, 0)])
