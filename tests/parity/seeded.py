"""Images, weights and samples that the parity scripts and the tests make alike; NumPy alone."""

import zlib

import numpy as np

SHAPES = ((64, 64), (64, 96), (75, 53))  # the last one is odd: padding is not symmetric
PATCHED = ((64, 64), (64, 96), (224, 224))  # multiples of a patch of 16


def images(shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[np.ndarray]:
  """Returns smooth random images [1,h,w,3] float32 in [0,1]."""
  rng = np.random.default_rng(0)
  made = []
  for h, w in shapes:
    coarse = np.kron(rng.random((h // 8 + 1, w // 8 + 1, 3)), np.ones((8, 8, 1)))[:h, :w]
    made.append((0.8 * coarse + 0.2 * rng.random((h, w, 3)))[None].astype(np.float32))
  return made


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the weights a random network has under a name of PyTorch's, float32."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("num_batches_tracked"):
    return np.zeros(shape, np.int64)
  if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  noise = rng.standard_normal(shape, np.float32)
  if len(shape) == 3:  # the class token and the positions of a ViT
    return noise
  if len(shape) < 2:
    return noise * np.float32(0.1)
  return noise * np.float32(np.prod(shape[1:]) ** -0.5)


def sample(activation: np.ndarray) -> np.ndarray:
  """Returns about 400 of an activation's values, spread over all of it; NHWC on both sides."""
  flat = np.asarray(activation, np.float32).reshape(-1)
  return flat[:: max(1, flat.size // 400) | 1]


def google(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns timm's state dict of a ViT-B/16 in Google's names and layout."""
  made = {
    "cls": state["cls_token"],
    "Transformer/posembed_input/pos_embedding": state["pos_embed"],
    "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
    "embedding/bias": state["patch_embed.proj.bias"],
    "Transformer/encoder_norm/scale": state["norm.weight"],
    "Transformer/encoder_norm/bias": state["norm.bias"],
    "head/kernel": state["head.weight"].T,
    "head/bias": state["head.bias"],
  }
  for i in range(12):
    of, at = f"blocks.{i}", f"Transformer/encoderblock_{i}"
    for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
      made[f"{at}/{theirs}/scale"] = state[f"{of}.{ours}.weight"]
      made[f"{at}/{theirs}/bias"] = state[f"{of}.{ours}.bias"]
    for theirs, ours in (("Dense_0", "mlp.fc1"), ("Dense_1", "mlp.fc2")):
      made[f"{at}/MlpBlock_3/{theirs}/kernel"] = state[f"{of}.{ours}.weight"].T
      made[f"{at}/MlpBlock_3/{theirs}/bias"] = state[f"{of}.{ours}.bias"]
    attention = f"{at}/MultiHeadDotProductAttention_1"
    weights = np.split(state[f"{of}.attn.qkv.weight"], 3)
    biases = np.split(state[f"{of}.attn.qkv.bias"], 3)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
      made[f"{attention}/{part}/kernel"] = weight.T.reshape(768, 12, 64)
      made[f"{attention}/{part}/bias"] = bias.reshape(12, 64)
    made[f"{attention}/out/kernel"] = state[f"{of}.attn.proj.weight"].T.reshape(12, 64, 768)
    made[f"{attention}/out/bias"] = state[f"{of}.attn.proj.bias"]
  return made
