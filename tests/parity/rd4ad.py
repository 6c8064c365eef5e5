"""Writes rd4ad.npz: activations, map, losses and steps of hq-deng/RD4AD at 6554076.

Two students: that of its ResNet-18, and that of its Wide ResNet with a quarter of the channels.
Both are given the same random features; their weights are random, made alike by seeded.py on both
sides, batch norm's statistics too. All is computed in float64. Needs torch and a copy of that
repository: `python tests/parity/rd4ad.py <repository>`. What it imports beside and does not use
here is replaced by mocks.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
MOCKS = (
  *("cv2", "pandas", "PIL", "sklearn", "sklearn.metrics", "skimage", "matplotlib"),
  *("matplotlib.pyplot", "matplotlib.ticker", "scipy", "scipy.ndimage", "scipy.spatial"),
  *("scipy.spatial.distance", "torchvision", "torchvision.datasets", "dataset", "test"),
)


def students(folder: str):
  """Returns {name: (bottleneck, decoder)}, the loss and the map of the repository."""
  sys.path.insert(0, folder)
  for name in MOCKS:
    sys.modules[name] = MagicMock()
  import de_resnet
  import main
  import resnet

  del sys.modules["test"]
  import test

  # With an expansion of 1 and half of a ResNet's width a block has half its channels inside, as a
  # Wide ResNet's has with 4 and twice the width.
  down = type("Down", (resnet.AttnBottleneck,), {"expansion": 1})
  up = type("Up", (de_resnet.Bottleneck,), {"expansion": 1})
  made = {
    "basic": (resnet.BN_layer(resnet.AttnBasicBlock, 2), de_resnet.de_resnet18()),
    "wide": (
      resnet.BN_layer(down, 3, width_per_group=32),
      de_resnet.ResNet(up, [3, 4, 6, 3], width_per_group=32),
    ),
  }
  return made, main.loss_fucntion, test.cal_anomaly_map


def named(halves: tuple[torch.nn.Module, torch.nn.Module]):
  """Returns the parameters in the order of their names, without those of the unused layers."""
  both = zip(("bottleneck", "decoder"), halves, strict=True)
  pairs = ((f"{part}.{name}", p) for part, half in both for name, p in half.named_parameters())
  unused = ("bottleneck.conv4", "bottleneck.bn4")
  return [p for name, p in sorted(pairs) if not name.startswith(unused)]


def few(tensors) -> np.ndarray:
  """Returns about 20 values of each tensor, one after the other."""
  flat = [t.detach().numpy().reshape(-1) for t in tensors]
  return np.concatenate([f[:: max(1, f.size // 20) | 1] for f in flat]).astype(np.float32)


def main() -> None:
  """Writes everything under "<student>/<what>"."""
  made, loss_of, map_of = students(sys.argv[1])
  x = [seeded.tensor(f"layer{i}", (48 >> i, 16 >> i, 64 << i)) for i in range(3)]
  x = [np.maximum(v.reshape(3, -1, *v.shape[1:]), 0).transpose(0, 3, 1, 2) for v in x]
  x = [torch.from_numpy(v.copy()).double() for v in x]
  found = {}
  for name, halves in made.items():
    for part, half in zip(("bottleneck", "decoder"), halves, strict=True):
      state = {
        k: torch.from_numpy(seeded.tensor(f"{part}.{k}", tuple(v.shape)))
        for k, v in half.state_dict().items()
      }
      half.load_state_dict(state)
      half.double().eval()
    bottleneck, decoder = halves
    with torch.no_grad():
      z = bottleneck(x)
      for stage, value in zip(("z", "layer1", "layer2", "layer3"), [z, *decoder(z)], strict=True):
        found[f"{name}/{stage}"] = seeded.sample(value.permute(0, 2, 3, 1).numpy())
      total, _ = map_of([v[:1] for v in x], [v[:1] for v in decoder(z)], 64, "a")
      found[f"{name}/map"] = total.astype(np.float32)

    bottleneck.train(), decoder.train()
    parameters = [*decoder.parameters(), *bottleneck.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.005, betas=(0.5, 0.999))
    losses = []
    for step in range(3):  # the second one shows the first beta, the third one its step
      loss = loss_of(x, decoder(bottleneck(x)))
      losses.append(loss.item())
      optimiser.zero_grad()
      loss.backward()
      if step == 0:
        found[f"{name}/gradient"] = few(p.grad for p in named(halves))
      optimiser.step()
      if step == 1:
        found[f"{name}/moved"] = few(named(halves))
    found[f"{name}/loss"] = np.array(losses, np.float32)
    found[f"{name}/statistics"] = bottleneck.bn1.running_mean.numpy().astype(np.float32)
  np.savez(HERE / "rd4ad.npz", **found)


if __name__ == "__main__":
  main()
