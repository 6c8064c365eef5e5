"""Writes devnet.npz: scores, loss, gradients, maps and two steps of Choubo/deviation-network-image.

The weights of its ResNet-18 are random, made alike by seeded.py on both sides, batch norm's
statistics too, which are used as they are, as in evaluation. Needs torch, torchvision, SciPy and a
copy of that repository: `python tests/parity/devnet.py <repository>`. What its localization.py
imports beside is replaced by mocks, and so is the GPU.
"""

import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch
import torchvision
from scipy import ndimage

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
SIZE = 64
CONVS = {"head": "conv.weight", "last": "feature_extractor.net.layer4.1.conv2.weight"}


def original(folder: str) -> tuple[types.ModuleType, torch.nn.Module, torch.nn.Module]:
  """Returns localization.py as a module, the network with seeded weights, and the loss."""
  sys.path.insert(0, folder)
  for name in ("cv2", "sklearn", "sklearn.metrics", "PIL", "datasets", "utils"):
    sys.modules[name] = MagicMock()
  sys.modules["scipy.ndimage.filters"] = ndimage
  torchvision.models.resnet18 = lambda pretrained: torchvision.models.get_model("resnet18")
  torch.Tensor.cuda = lambda self: self
  import localization
  from modeling.layers.deviation_loss import DeviationLoss
  from modeling.net import SemiADNet

  args = types.SimpleNamespace(backbone="resnet18", n_scales=2, img_size=SIZE, topk=0.1)
  net = SemiADNet(args)
  state = {
    k: torch.from_numpy(seeded.tensor(k, tuple(v.shape))) for k, v in net.state_dict().items()
  }
  net.load_state_dict(state)
  return localization, net.eval(), DeviationLoss()


def steps(found: dict[str, np.ndarray]) -> None:
  """Adds what two steps of the authors' optimiser make of two tensors, under "step/"."""
  tensors = [torch.nn.Parameter(torch.from_numpy(seeded.tensor(n, (3, 5)))) for n in ("a", "b")]
  optimiser = torch.optim.Adam(tensors, lr=0.0002, weight_decay=1e-5)
  for step in range(2):
    for name, tensor in zip("ab", tensors, strict=True):
      tensor.grad = torch.from_numpy(4 * seeded.tensor(f"{name}{step}", (3, 5)))
    torch.nn.utils.clip_grad_norm_(tensors, 1.0)
    optimiser.step()
  found |= {f"step/{n}": t.detach().numpy() for n, t in zip("ab", tensors, strict=True)}


def main() -> None:
  """Writes all of it for three images, the last of which is anomalous."""
  module, net, criterion = original(sys.argv[1])
  drawn = np.random.default_rng(1).standard_normal(5000, np.float32)
  torch.normal = lambda **_: torch.from_numpy(drawn)
  image = torch.from_numpy(np.concatenate(seeded.images(((SIZE, SIZE),) * 3)))
  image.requires_grad = True
  score = net(((image - torch.from_numpy(MEAN)) / torch.from_numpy(STD)).permute(0, 3, 1, 2))
  found = {"score": score.detach().numpy()[:, 0]}

  (gradient,) = torch.autograd.grad(score.sum(), image, retain_graph=True)
  cams = [module.convert_to_grayscale(g.transpose(2, 0, 1))[0] for g in gradient.numpy()]
  found["map"] = np.stack([seeded.sample(module.gaussian_filter(cam, sigma=4)) for cam in cams])

  loss = criterion(score, torch.tensor([[0.0], [0.0], [1.0]]))
  loss.backward()
  found["loss"] = loss.detach().numpy()
  weights = dict(net.named_parameters())
  for name, conv in CONVS.items():
    found[f"gradient/{name}"] = seeded.sample(weights[conv].grad.permute(2, 3, 1, 0).numpy())
  steps(found)
  np.savez(HERE / "devnet.npz", **found)


if __name__ == "__main__":
  main()
