"""Images, weights and samples that the parity scripts and the tests make alike; NumPy alone."""

import zlib

import numpy as np

SHAPES = ((64, 64), (64, 96), (75, 53))  # the last one is odd: padding is not symmetric


def images() -> list[np.ndarray]:
  """Returns three smooth random images [1,h,w,3] float32 in [0,1]."""
  rng = np.random.default_rng(0)
  made = []
  for h, w in SHAPES:
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
  if len(shape) < 2:
    return noise * np.float32(0.1)
  return noise * np.float32(np.prod(shape[1:]) ** -0.5)


def sample(activation: np.ndarray) -> np.ndarray:
  """Returns about 400 of an activation's values, spread over all of it; NHWC on both sides."""
  flat = np.asarray(activation, np.float32).reshape(-1)
  return flat[:: max(1, flat.size // 400) | 1]
