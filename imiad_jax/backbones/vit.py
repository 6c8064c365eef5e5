"""ViT-B/16 (Dosovitskiy et al. 2020, arXiv 2010.11929).

As timm has it: LayerNorm before each branch, eps 1e-6, exact GELU, a class token. Differs in that
images of any size that is a multiple of 16 are taken: the position embedding is resized to their
grid, bicubically as timm does. timm's files are read and Google's, which are npz.

Parameters by top-level key: stem (patches, class token, positions), block1 to block12, norm,
classifier.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from imiad_jax import plugins, weights
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Source
from imiad_jax.errors import UserError

_AUGREG = "imagenet2012-steps_20k-lr_0.01-res_224.npz"
VARIANTS = {
  "vit_base_patch16_224": Source(
    files={
      f"B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--{_AUGREG}": "",
      f"B_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.1-sd_0.1--{_AUGREG}": "",
      "ViT-B_16.npz": "",  # this one lies in sam/
    },
    origin="https://storage.googleapis.com/vit_models/augreg/",
    repos=(
      "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
      "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
      "timm/vit_base_patch16_224.augreg_in1k",
      "timm/vit_base_patch16_224.orig_in21k_ft_in1k",
      "timm/vit_base_patch16_224.sam_in1k",
    ),
  )
}

_WIDTH, _DEPTH, _HEADS, _MLP, _PATCH, _GRID, _CLASSES = 768, 12, 12, 3072, 16, 14, 1000
# Parts of Google's names, and what timm says for them.
_GOOGLE = {
  "Transformer/posembed_input/pos_embedding": "pos_embed",
  "Transformer/encoderblock_": "blocks.",
  "Transformer/encoder_norm": "norm",
  "MultiHeadDotProductAttention_1": "attn",
  "MlpBlock_3/Dense_0": "mlp.fc1",
  "MlpBlock_3/Dense_1": "mlp.fc2",
  "LayerNorm_0": "norm1",
  "LayerNorm_2": "norm2",
  "embedding/": "patch_embed.proj/",
  "cls": "cls_token",
  "/": ".",
  ".kernel": ".weight",
  ".scale": ".weight",
}
_STAGES = (3, 6, 9, 12)  # blocks whose tokens are returned


class Stem(nn.Module):
  """Patches, each projected and given its position; the class token goes before them."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
    """Returns the tokens, n = 1 + h/16 * w/16."""
    normal = nn.initializers.normal(0.02)
    kernel = self.param("kernel", normal, (_PATCH, _PATCH, 3, _WIDTH))
    bias = self.param("bias", nn.initializers.zeros, (_WIDTH,))
    token = self.param("token", normal, (_WIDTH,))  # its position has been added
    position = jnp.asarray(self.param("position", normal, (_GRID, _GRID, _WIDTH)))
    patches = rearrange(x, "b (h i) (w j) c -> b h w (i j c)", i=_PATCH, j=_PATCH)
    x = patches @ kernel.reshape(-1, _WIDTH) + bias
    x = x + jax.image.resize(position, x.shape[1:], "cubic")
    tokens = rearrange(x, "b h w d -> b (h w) d")
    return jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, _WIDTH)), tokens], axis=1)


class Block(nn.Module):
  """Attention among all tokens, then a perceptron for each."""

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Returns the tokens after both residual branches."""
    y = nn.Dense(3 * _WIDTH, name="qkv")(_norm("norm1")(x))
    q, k, v = rearrange(y, "b n (three heads d) -> three b n heads d", three=3, heads=_HEADS)
    y = rearrange(jax.nn.dot_product_attention(q, k, v), "b n heads d -> b n (heads d)")
    x = x + nn.Dense(_WIDTH, name="proj")(y)
    y = nn.Dense(_MLP, name="fc1")(_norm("norm2")(x))
    return x + nn.Dense(_WIDTH, name="fc2")(jax.nn.gelu(y, approximate=False))


class Model(nn.Module):
  """Vision Transformer. `variant` is a name in VARIANTS."""

  variant: str

  @nn.compact
  def __call__(self, image: Float[Array, "b h w 3"]) -> dict[str, jax.Array]:
    """Returns every stage by name of images in [0,1].

    "stem" (what enters the first block), "block3", "block6", "block9", "block12": the patches'
    tokens, [b,h/16,w/16,768]; "embedding": [b,768], the class token after the last norm; "logits":
    [b,1000] where there is a classifier. Raises UserError unless h and w are multiples of 16.
    """
    plugins.check("backbone", self.variant, VARIANTS)
    h, w = image.shape[1:3]
    if h % _PATCH or w % _PATCH:
      raise UserError(f"{self.variant} takes sizes that are multiples of 16, not {h} x {w}.")

    def grid(tokens: jax.Array) -> jax.Array:
      return rearrange(tokens[:, 1:], "b (h w) d -> b h w d", h=h // _PATCH)

    x = Stem(name="stem")((image - 0.5) / 0.5)
    stages = {"stem": grid(x)}
    for i in range(1, _DEPTH + 1):
      x = Block(name=f"block{i}")(x)
      if i in _STAGES:
        stages[f"block{i}"] = grid(x)
    embedding = _norm("norm")(x[:, 0])
    return {**stages, "embedding": embedding, **common.classify(self, embedding)}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  The file is `path`, else one in the weights folder, else fetched by huggingface_hub where that is
  installed. Raises UserError when there is none, or when it is another model's.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  state = _from_google(state) if "embedding/kernel" in state else state
  shapes = _shapes()
  head = [name for name in shapes if name.startswith("head.")]
  weights.check(state, shapes, () if state.keys() & set(head) else head, file)
  state = {name: np.asarray(array, np.float32) for name, array in state.items()}
  params: dict[str, Any] = {f"block{i + 1}": _block(state, f"blocks.{i}.") for i in range(_DEPTH)}
  position = state["pos_embed"][0]
  params["stem"] = {
    "kernel": np.ascontiguousarray(state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)),
    "bias": state["patch_embed.proj.bias"],
    "token": state["cls_token"][0, 0] + position[0],
    "position": position[1:].reshape(_GRID, _GRID, _WIDTH),
  }
  params["norm"] = _scale(state, "norm")
  if head[0] in state:
    params["classifier"] = _dense(state, "head")
  return params, digest


def _norm(name: str) -> nn.LayerNorm:
  return nn.LayerNorm(1e-6, use_fast_variance=False, name=name)


def _block(state: dict[str, np.ndarray], at: str) -> dict[str, Any]:
  names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
  norms = {name: _scale(state, f"{at}{name}") for name in ("norm1", "norm2")}
  return {**norms, **{ours: _dense(state, f"{at}{name}") for ours, name in names.items()}}


def _dense(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  kernel = np.ascontiguousarray(state[f"{name}.weight"].T)
  return {"kernel": kernel, "bias": state[f"{name}.bias"]}


def _scale(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _shapes() -> dict[str, tuple[int, ...]]:
  """Returns the shape of every tensor in timm's file."""
  d = _WIDTH
  layers: dict[str, tuple[int, ...]] = {"patch_embed.proj": (d, 3, _PATCH, _PATCH)}
  for i in range(_DEPTH):
    at = f"blocks.{i}."
    layers |= {f"{at}norm1": (d,), f"{at}attn.qkv": (3 * d, d), f"{at}attn.proj": (d, d)}
    layers |= {f"{at}norm2": (d,), f"{at}mlp.fc1": (_MLP, d), f"{at}mlp.fc2": (d, _MLP)}
  layers |= {"norm": (d,), "head": (_CLASSES, d)}
  shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d), "pos_embed": (1, _GRID**2 + 1, d)}
  for name, shape in layers.items():
    shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
  return shapes


def _from_google(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns Google's arrays under timm's names, in PyTorch's layout; unknown names stay."""
  made = {}
  for name, array in state.items():
    for theirs, ours in _GOOGLE.items():
      name = name.replace(theirs, ours)
    if name.endswith("attn.out.weight"):  # heads, channels of one, d
      array = array.reshape(-1, array.shape[-1]).T
    elif name.endswith(".weight") and array.ndim == 4:
      array = array.transpose(3, 2, 0, 1)
    elif name.endswith(".weight") and array.ndim > 1:  # d, then perhaps heads, channels of one
      array = array.reshape(len(array), -1).T
    elif name.endswith(".bias"):
      array = array.reshape(-1)
    made[name.replace("attn.out.", "attn.proj.")] = array
  for i in range(_DEPTH):
    for kind in ("weight", "bias"):
      names = [f"blocks.{i}.attn.{part}.{kind}" for part in ("query", "key", "value")]
      if all(name in made for name in names):
        made[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate([made.pop(name) for name in names])
  return made
