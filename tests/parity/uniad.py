"""Writes uniad.npz: a step and a map of the authors' code, github.com/zhiyuanyou/UniAD.

Their neck and transformer, narrow, on 12 x 12 cells; jitter and dropout are off. The weights are
random, made alike by seeded.py on both sides. Needs torch, einops being replaced here, and a copy
of that repository: `python tests/parity/uniad.py <repository>`.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
GRID, STRIDE, CHANNELS, WIDTH = 12, 4, (3, 5), 8


def load(folder: str, path: str) -> types.ModuleType:
  """Returns one of the repository's files as a module."""
  spec = importlib.util.spec_from_file_location(Path(path).stem, Path(folder) / path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[module.__name__] = module
  spec.loader.exec_module(module)
  return module


def rearrange(x: torch.Tensor, pattern: str, h: int = 0) -> torch.Tensor:
  """Is einops' function for the two patterns that are used."""
  if pattern == "b c h w -> (h w) b c":
    return x.flatten(2).permute(2, 0, 1)
  return x.permute(1, 2, 0).unflatten(2, (h, -1))


def original(folder: str) -> tuple[types.ModuleType, types.ModuleType]:
  """Returns the authors' files of the neck and of the transformer, without a GPU."""
  torch.Tensor.cuda = lambda self: self
  sys.modules["einops"] = types.SimpleNamespace(rearrange=rearrange)
  sys.modules["models"] = types.ModuleType("models")
  sys.modules["models.initializer"] = load(folder, "models/initializer.py")
  return load(folder, "models/necks/mfcn.py"), load(folder, "models/reconstructions/uniad.py")


def main() -> None:
  """Writes the map of an image, its score, the loss of a step and all that it moves."""
  necks, reconstructions = original(sys.argv[1])
  neck = necks.MFCN(list(CHANNELS), [sum(CHANNELS)], [STRIDE // 2, STRIDE], [STRIDE])
  mask = types.SimpleNamespace(neighbor_size=[7, 7], mask=[True, True, True])
  net = reconstructions.UniAD(
    *([sum(CHANNELS)], [STRIDE], (GRID, GRID), None, mask, WIDTH, "learned", None),
    {"method": "xavier_uniform"},
    **dict(nhead=2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=16, dropout=0.0),
  )
  net.load_state_dict(
    {
      name: torch.from_numpy(seeded.tensor(name, tuple(value.shape)))
      for name, value in net.state_dict().items()
    }
  )
  shapes = [(2, c, GRID * s, GRID * s) for c, s in zip(CHANNELS, (2, 1), strict=True)]
  features = [
    torch.from_numpy(np.random.default_rng(i).normal(size=shape).astype(np.float32))
    for i, shape in enumerate(shapes)
  ]
  given = neck({"features": features})
  net.eval()
  with torch.no_grad():
    pred = net(given)["pred"]
  score = torch.nn.functional.avg_pool2d(pred, (16, 16), stride=1).amax((1, 2, 3))
  found = {"map": seeded.sample(pred[:, 0].numpy()), "score": score.numpy()}
  net.train()
  optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.9, 0.999), weight_decay=1e-4)
  before = {name: value.detach().clone() for name, value in net.named_parameters()}
  out = net(given)
  loss = torch.nn.functional.mse_loss(out["feature_rec"], out["feature_align"])
  loss.backward()
  torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
  optimiser.step()
  found["loss"] = loss.detach().numpy()
  for name, value in net.named_parameters():
    found[f"gradient/{name}"] = seeded.sample(value.grad.numpy())
    found[f"moved/{name}"] = seeded.sample((value.detach() - before[name]).numpy())
  np.savez(HERE / "uniad.npz", **found)


if __name__ == "__main__":
  main()
