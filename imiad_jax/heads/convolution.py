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
_NEAR = 1 << 20  # numbers that stay in caches; of more, gradients of kernels took far longer
_FEW = (
  16  # channels out up to which a kernel's gradient is faster as a convolution than as products
)
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
  """Returns the gradient of an input [b,*shape,c] whose convolution has the gradient g.

  Cells of the input that lie `stride` apart meet the same taps: `stride` squared kernels without
  strides, whose results are woven into one another.
  """
  size, depth, channels = len(kernel), g.shape[-1], kernel.shape[2]
  taps = -(-size // stride)
  grown = jnp.pad(kernel, [(0, taps * stride - size)] * 2 + [(0, 0)] * 2)
  grown = grown.reshape(taps, stride, taps, stride, channels, depth)[::-1, :, ::-1]
  grown = grown.transpose(0, 2, 5, 1, 3, 4).reshape(taps, taps, depth, -1)
  skipped, cut = divmod(padding, stride)
  cells = [-(-(n + cut) // stride) for n in shape]
  pads = [(taps - 1 - skipped, n + skipped - m) for n, m in zip(cells, g.shape[1:3], strict=True)]
  found = lax.conv_general_dilated(g, grown, (1, 1), pads, dimension_numbers=_LAYOUT)
  found = found.reshape(-1, *cells, stride, stride, channels).transpose(0, 1, 3, 2, 4, 5)
  found = found.reshape(-1, cells[0] * stride, cells[1] * stride, channels)
  return found[:, cut : cut + shape[0], cut : cut + shape[1]]


def _to_kernel(x: Array, g: Array, size: int, stride: int, padding: int) -> Array:
  """Returns the gradient of the kernel of a convolution of x that has the gradient g.

  It is summed over parts of the batch, each of about as many images as caches hold.
  """
  fewest = -(-(x.size + g.size) // _NEAR)
  parts = next(n for n in range(1, len(x) + 1) if len(x) % n == 0 and n >= min(fewest, len(x)))
  x, g = (a.reshape(parts, -1, *a.shape[1:]) for a in (x, g))
  of_part = _convolved if g.shape[-1] <= _FEW else _multiplied

  def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
    return total + of_part(*part, size, stride, padding), None

  zeros = jnp.zeros((size, size, x.shape[-1], g.shape[-1]), x.dtype)
  return lax.scan(add, zeros, (x, g))[0]


def _multiplied(x: Array, g: Array, size: int, stride: int, padding: int) -> Array:
  """Returns the gradient of the kernel over some images: for each tap a product of matrices."""
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  h, w = ((n - 1) * stride + 1 for n in g.shape[1:3])
  taps = [
    x[:, i : i + h : stride, j : j + w : stride].reshape(-1, x.shape[-1])
    for i in range(size)
    for j in range(size)
  ]
  found = [jnp.einsum("nc,nd->cd", tap, g.reshape(-1, g.shape[-1])) for tap in taps]
  return jnp.stack(found).reshape(size, size, x.shape[-1], -1)


def _convolved(x: Array, g: Array, size: int, stride: int, padding: int) -> Array:
  """Is `_multiplied` as one convolution of x by g.

  As in `_to_input` the cells of x that lie `stride` apart are taken together, as channels.
  """
  batch, *shape, channels = x.shape
  taps = -(-size // stride)
  cells = [m + taps - 1 for m in g.shape[1:3]]
  pads = [(padding, n * stride - m - padding, 0) for n, m in zip(cells, shape, strict=True)]
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
  x = x.reshape(batch, cells[0], stride, cells[1], stride, channels).transpose(2, 4, 5, 1, 3, 0)
  x, g = x.reshape(-1, *cells, batch), g.transpose(1, 2, 0, 3)
  found = lax.conv_general_dilated(x, g, (1, 1), "VALID", dimension_numbers=_LAYOUT)
  found = found.reshape(stride, stride, channels, taps, taps, -1).transpose(3, 0, 4, 1, 2, 5)
  return found.reshape(taps * stride, taps * stride, channels, -1)[:size, :size]
