"""Writes regad.npz: a step and a map of the authors' code, github.com/MediaBrain-SJTU/RegAD.

Images are 48 pixels wide, to which the transformers' hidden layers are fitted. The weights are
random, made alike by seeded.py on both sides. What differs from their code: batch norm of the
ResNet stays in evaluation, images are normalised before it, maps are not smoothed, and what they
take of kornia and of torchvision is replaced by plain torch. Needs torch and a copy of that
repository: `python tests/parity/regad.py <repository>`.
"""

import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch
import torch._dynamo  # which looks into modules that are mocked below

HERE = Path(__file__).parent
SIZE, SHOTS = 48, 2
MEAN, STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Network(torch.nn.Module):
  """Their network behind a normalisation, its ResNet's batch norm in evaluation."""

  def __init__(self, net: torch.nn.Module):
    super().__init__()
    self.net = net

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return self.net((x - mean) / std)

  def train(self, mode: bool = True) -> "Network":
    super().train(mode)
    for name, module in self.net.named_modules():
      if isinstance(module, torch.nn.BatchNorm2d) and not name.startswith("stn"):
        module.eval()
    return self

  def __getattr__(self, name: str):
    return getattr(self.net, name) if name.endswith("_output") else super().__getattr__(name)


def seed(model: torch.nn.Module, prefix: str) -> torch.nn.Module:
  """Gives a model seeded weights; the transformers' are around the identity."""
  made = {}
  for name, value in model.state_dict().items():
    drawn = torch.from_numpy(seeded.tensor(prefix + name, tuple(value.shape)))
    made[name] = drawn
    if name.endswith("fc.2.bias"):
      made[name] = drawn + torch.tensor([0.0, 1.0, 1.0])
    if name.endswith("fc.2.weight"):
      made[name] = 0.1 * drawn
  model.load_state_dict(made)
  return model


def modules() -> tuple[types.ModuleType, types.ModuleType, types.ModuleType]:
  """Returns their train, models.stn and models.siamese."""
  torch.Tensor.cuda = lambda self: self
  torch.Tensor.get_device = lambda self: "cpu"
  kornia = MagicMock()
  kornia.geometry.transform.hflip = lambda x: x.flip(-1)
  kornia.geometry.transform.rotate = lambda x, angle, padding_mode: torch.rot90(
    x, round(float(angle) / 90), (2, 3)
  )
  weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
  kornia.color.rgb_to_grayscale = lambda x: (x * weights).sum(1, keepdim=True)
  mocked = ("torchvision", "torchvision.models", "sklearn", "sklearn.metrics", "tqdm", "IPython")
  mocked += ("IPython.display", "scipy", "scipy.ndimage", "datasets", "datasets.mvtec")
  for name in mocked:
    sys.modules[name] = MagicMock()
  sys.modules["kornia"] = kornia
  sys.modules["tqdm"].tqdm = lambda x: x
  sys.path.insert(0, sys.argv[1])
  import models.siamese
  import models.stn
  import train

  train.print_log = lambda *_: None
  train.gaussian_filter = lambda x, sigma: x
  concatenate = train.embedding_concat
  train.embedding_concat = lambda x, y, _: concatenate(x, y, False)
  return train, models.stn, models.siamese


def main() -> None:
  """Writes the loss of a step, what it moves and the score maps of two support images."""
  train, stn, siamese = modules()
  net = stn.stn_net(types.SimpleNamespace(stn_mode="rotation_scale"), pretrained=False)
  for i, side in ((1, 3), (2, 2), (3, 1)):
    getattr(net, f"stn{i}").fc[0] = torch.nn.Linear(16 * side * side, 1024)
  models = [
    Network(seed(net, "")),
    seed(siamese.Encoder(), "encoder."),
    seed(siamese.Predictor(), "predictor."),
  ]
  pictures = np.concatenate(seeded.images(((SIZE, SIZE),) * 4))
  pictures = (np.round(255 * pictures) / np.float32(255)).transpose(0, 3, 1, 2)
  images = torch.from_numpy(np.ascontiguousarray(pictures))
  support, tested = images[:2], images[2:]
  nothing = torch.zeros(1)
  loader = [(x[None], nothing, nothing, nothing) for x in tested]
  found = {"map": np.asarray(train.test(models, 0, [support], loader)[0], np.float32)}

  named = {"": models[0].net, "encoder.": models[1], "predictor.": models[2]}
  before = {p + k: v.clone() for p, m in named.items() for k, v in m.state_dict().items()}
  losses = []
  meter = types.SimpleNamespace(update=lambda value, _: losses.append(value), avg=0.0)
  train.AverageMeter = lambda: meter
  optimisers = [torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9) for m in models]
  others = torch.stack([images[[1, 1]], images[[0, 0]]])
  train.train(models, 1, [(support[None], others[None], None)], optimisers, None)
  found["loss"] = np.float32(losses[0])
  for prefix, model in named.items():
    for name, value in model.state_dict().items():
      key = prefix + name
      unused = key.startswith(("encoder.bn3",)) or name.endswith(("tracked", "running_var"))
      if (prefix or name.startswith("stn")) and not unused:
        moved = (value - before[key]).detach()
        found[key] = seeded.sample(moved.permute(2, 3, 1, 0) if moved.ndim == 4 else moved)
  np.savez(HERE / "regad.npz", **found)


if __name__ == "__main__":
  main()
