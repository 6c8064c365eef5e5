"""Writes favae.npz: a map and a step of the common PyTorch version of FAVAE, an eighth as wide.

There is no code by the authors; this is the version's copy in github.com/M-3LAB/open-iad at
05044fe, arch/favae.py and models/favae. It needs torch, torchvision and scipy:
`python tests/parity/favae.py <its folder>`. Images are in [0, 1], for the network and for what it
rebuilds; the copy smooths the rows of a map one by one, so the maps are taken before that. In
float32 and at full width its gradients are up to four thousandths off; here it has float64.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import seeded
import torch

IMAGES, SIZE = 2, 128
NARROW = {128: 16, 256: 32, 512: 64, 32: 4}  # channels; others are as many as theirs
GRIDS = {"7": (64, 16), "14": (32, 32), "21": (16, 64)}  # side, channels of what is rebuilt


def original(folder: str) -> ModuleType:
  """Imports their method without what it needs for runs of theirs."""
  sys.path.append(folder)
  for name in ("arch", "arch.base", "optimizer", "optimizer.optimizer"):
    sys.modules[name] = ModuleType(name)
  sys.modules["arch"].__path__ = [f"{folder}/arch"]
  sys.modules["arch.base"].ModelBase = object
  sys.modules["optimizer.optimizer"].get_optimizer = None
  np.Inf = np.inf
  module = importlib.import_module("arch.favae")
  nn = vars(sys.modules["models.favae.net_favae"])["nn"]
  for name, axes in (("Conv2d", 2), ("ConvTranspose2d", 2), ("BatchNorm2d", 1)):
    setattr(nn, name, narrowed(getattr(nn, name), axes))
  return module


def narrowed(kind, axes: int):
  """Returns a layer's constructor that makes fewer of the channels, its first arguments."""

  def make(*args, **kw):
    return kind(*(NARROW.get(n, n) for n in args[:axes]), *args[axes:], **kw)

  return make


class Layer(torch.nn.Module):
  """Gives the seeded features of as many images as it is given."""

  def __init__(self, side: int, channels: int):
    super().__init__()
    x = seeded.tensor(f"vgg/{side}", (IMAGES, side * side, channels))
    self.x = torch.from_numpy(x).double().reshape(IMAGES, side, side, channels).permute(0, 3, 1, 2)

  def forward(self, x):
    return self.x[: len(x)]


def main() -> None:
  """Writes the first image's score and map, then the loss and gradients of a training step."""
  module = original(sys.argv[1])
  model = module.FAVAE.__new__(module.FAVAE)
  net = model.vaenet = module.NetFAVAE().double()
  shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
  net.load_state_dict({k: torch.from_numpy(seeded.tensor(k, s)) for k, s in shapes.items()})
  layers = torch.nn.ModuleDict({name: Layer(*grid) for name, grid in GRIDS.items()})
  model.teacher = SimpleNamespace(features=layers, eval=lambda: None)
  model.device, model.config = "cpu", {"num_epochs": 1, "_kld_weight": 1}
  model.criterion_1 = torch.nn.MSELoss(reduction="sum")
  model.criterion_2 = torch.nn.MSELoss(reduction="none")
  model.optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
  model.img_gt_list, model.img_pred_list, model.img_path_list = [], [], []
  model.clear_all_list = lambda: None
  image = torch.from_numpy(np.concatenate(seeded.images(((SIZE, SIZE),) * IMAGES)))
  image = image.permute(0, 3, 1, 2).double()
  none = torch.zeros(1, 1, SIZE, SIZE)
  rows = []
  module.gaussian_filter = lambda row, sigma: rows.append(row.copy()) or row
  model.prediction([{"img": image[:1], "mask": none, "label": none[0, 0, 0], "img_src": ""}])
  found = {"image": np.float64(model.img_pred_list[0]), "map": seeded.sample(np.array(rows))}
  noise = torch.from_numpy(seeded.tensor("noise", (IMAGES, 100, 1)))[..., 0]
  net.reparameterize = lambda mean, log_var: mean + torch.exp(log_var / 2) * noise
  losses = []
  module.AverageMeter = lambda: SimpleNamespace(update=lambda value, _: losses.append(value))
  model.train_model([{"img": image}], 0)
  found["loss"] = np.float64(losses[0])
  for name, value in net.named_parameters():
    found[f"gradient/{name}"] = seeded.sample(value.grad.numpy())[::8]
  np.savez(Path(__file__).parent / "favae.npz", **found)


if __name__ == "__main__":
  main()
