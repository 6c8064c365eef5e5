"""Writes cfa.npz: what the authors' code gives for seeded features and weights.

The original is github.com/sungwool/CFA_for_anomaly_localization at 0708086; it needs torch, einops,
scipy, scikit-learn, scikit-image and tqdm: `python tests/parity/cfa.py <its folder>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

sys.path.insert(0, sys.argv[1])
from utils import cfa, metric

RADIUS = 4.3  # some centres are within it and some are not, so that both losses count
SHAPES = {"layer1": (8, 64), "layer2": (4, 128), "layer3": (2, 256)}  # side, channels: ResNet-18


def features(batch: torch.Tensor) -> list[torch.Tensor]:
  """Returns the three stages of the two images of a batch, given its number, NCHW."""
  grids = []
  for stage, (side, c) in SHAPES.items():
    x = seeded.tensor(f"{int(batch)}/{stage}", (2, side * side, c)).reshape(2, side, side, c)
    grids.append(torch.from_numpy(x).permute(0, 3, 1, 2))
  return grids


def seed(descriptor: torch.nn.Module, *args) -> None:
  """Initialises a descriptor as the original does, then gives it seeded weights."""
  initialise(descriptor, *args)
  with torch.no_grad():
    for name, value in descriptor.layer.conv.named_parameters():
      value.copy_(torch.from_numpy(seeded.tensor(f"descriptor.{name}", tuple(value.shape))))


initialise = cfa.Descriptor.__init__


def amsgrad() -> np.ndarray:
  """Returns eight numbers after each of twelve steps down gradients that fade."""
  x = torch.from_numpy(seeded.tensor("amsgrad", (8,))).requires_grad_()
  optimiser = torch.optim.AdamW([x], lr=1e-2, weight_decay=0.1, amsgrad=True)
  found = []
  for i in range(12):
    x.grad = torch.from_numpy(seeded.tensor(f"amsgrad{i}", (8,))) * 0.5**i
    optimiser.step()
    found.append(x.detach().numpy().copy())
  return np.stack(found)


def main() -> None:
  """Writes the bank, and for four training steps the loss, gradients, parameters and maps."""
  torch.Tensor.cuda = lambda self: self  # the coordinates ask for a GPU
  cfa.Descriptor.__init__ = seed
  batches = [torch.tensor(0), torch.tensor(1)]
  model = cfa.DSVDD(features, [(x, None, None) for x in batches], "res18", 1, 1, "cpu")
  found = {"bank": seeded.sample(model.C.detach().T.numpy())}
  with torch.no_grad():
    model.r.fill_(RADIUS)
    described = model.Descriptor(features(batches[0])).permute(0, 2, 3, 1)
  found["described"] = seeded.sample(described.numpy())
  optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4, amsgrad=True)
  conv = model.Descriptor.layer.conv
  model.train()
  for i, batch in enumerate(batches * 2):
    optimiser.zero_grad()
    loss, _ = model(features(batch))
    loss.backward()
    found[f"{i}/loss"] = loss.detach().numpy()
    found[f"{i}/gradient"] = seeded.sample(conv.weight.grad[..., 0, 0].T.numpy())
    found[f"{i}/gradient/radius"] = model.r.grad.numpy().copy()
    optimiser.step()
    found[f"{i}/kernel"] = seeded.sample(conv.weight.detach()[..., 0, 0].T.numpy())
    found[f"{i}/bias"] = conv.bias.detach().numpy().copy()
    found[f"{i}/radius"] = model.r.detach().numpy().copy()
  model.eval()
  with torch.no_grad():
    _, score = model(features(torch.tensor(2)))
  maps = metric.upsample(score[:, 0], size=64, mode="bilinear")
  found["map"] = seeded.sample(metric.gaussian_smooth(maps, sigma=4))
  found["image"] = maps.reshape(2, -1).max(1)
  found["amsgrad"] = amsgrad()
  np.savez(Path(__file__).parent / "cfa.npz", **found)


if __name__ == "__main__":
  main()
