"""Writes dne.npz: steps, Gaussians and scores of the first author's DNE over three tasks.

The original is github.com/vijaylee/Continual_Anomaly_Detection at 7be4ea5; it needs torch and
scikit-learn: `python tests/parity/dne.py <its folder>`. Its network is a linear map here, its
pasted image the negative of the other one; samples of a Gaussian are those of seeded noise by its
Cholesky factor, where NumPy's would be by its singular values.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import seeded
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

DIM, IMAGES, SIDE, TASKS, LR = 5, 8, 3, 3, 0.02


class Network(torch.nn.Module):
  """The embedding is a linear map of an image's numbers, the class one of the embedding."""

  def __init__(self):
    super().__init__()
    self.body = torch.nn.Linear(3 * SIDE * SIDE, DIM, bias=False)
    self.head = torch.nn.Linear(DIM, 2)
    state = {k: tuple(v.shape) for k, v in self.state_dict().items()}
    self.load_state_dict({k: torch.from_numpy(seeded.tensor(k, s)) for k, s in state.items()})

  def forward_features(self, x):
    return self.body(x.flatten(1))

  def forward(self, x):
    z = self.forward_features(x)
    return self.head(z), z


def original(folder: str):
  """Returns their method, their density and their optimiser without their data sets."""
  for name in ("methods", "methods.utils", "utils"):
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [f"{folder}/{name.replace('.', '/')}"]
  modules = ("methods.dne", "utils.density", "utils.optimizer")
  method, density, optimizer = (importlib.import_module(name) for name in modules)
  return method.DNE, density.GaussianDensityTorch, optimizer.get_optimizer


def image(name: str) -> torch.Tensor:
  """Returns the seeded images of a batch, laid out as ours are."""
  shape = (IMAGES, 3 * SIDE * SIDE, 1)
  return torch.from_numpy(seeded.tensor(name, shape)).reshape(IMAGES, SIDE, SIDE, 3)


def sampled(mean, covariance, size: int) -> np.ndarray:
  """Returns samples of a Gaussian for seeded noise."""
  if not size:
    return np.zeros((0, len(mean)))
  factor = np.linalg.cholesky(np.asarray(covariance, np.float64))
  return np.asarray(mean) + seeded.tensor("noise", (size, DIM, 1))[..., 0] @ factor.T


def main() -> None:
  """Writes, after each task, parameters, the Gaussian that scores, and scores of test images."""
  dne, density, get_optimizer = original(sys.argv[1])
  np.random.multivariate_normal = sampled
  args = SimpleNamespace(
    noise_ratio=0,
    dataset=SimpleNamespace(strong_augmentation=True),
    model=SimpleNamespace(fix_head=True),
    eval=SimpleNamespace(eval_classifier="density"),
    train=SimpleNamespace(base_lr=LR, optimizer=SimpleNamespace(name="adam", weight_decay=3e-2)),
  )
  net = Network()
  optimiser = get_optimizer(args, net)
  model = dne(args, net, optimiser, CosineAnnealingWarmRestarts(optimiser, 1))
  fitted, means, covariances, counts, found = density(), [], [], [], {}
  for t in range(TASKS):
    counts.append(2 * IMAGES)
    embeddings = []
    for i in range(2):
      x = image(f"{t}/{i}")
      labels = torch.arange(2).repeat_interleave(IMAGES)
      model(0, torch.cat([x, -x]), labels, embeddings, t)
    model.training_epoch(fitted, embeddings, means, covariances, counts, t)
    for name, value in net.state_dict().items():
      found[f"{t}/{name}"] = value.numpy().copy()
    found[f"{t}/mean"], found[f"{t}/covariance"] = fitted.mean.numpy(), fitted.cov.numpy()
    z = torch.nn.functional.normalize(net.forward_features(image("test")), p=2, dim=1)
    found[f"{t}/score"] = fitted.predict(z).detach().numpy()
  np.savez(Path(__file__).parent / "dne.npz", **found)


if __name__ == "__main__":
  main()
