"""Writes cutpaste.npz: what the common PyTorch version of CutPaste makes of seeded numbers.

It is Runinho/pytorch-cutpaste at 10d8bf7; the head's weights are made alike by seeded.py on both
sides. Needs torch, torchvision, scikit-learn and that repository:
`python tests/parity/cutpaste.py <its folder>`.
"""

import random
import sys
from pathlib import Path

import numpy as np
import seeded
import torch
from PIL import Image

HERE = Path(__file__).parent
WIDTHS, CLASSES = (16, 8), 3


def head(model_file) -> dict[str, np.ndarray]:
  """Returns logits, loss and gradient of embeddings, and the weights after three steps."""
  model = model_file.ProjectionNet(pretrained=False, head_layers=list(WIDTHS), num_classes=CLASSES)
  parts = torch.nn.ModuleDict({"head": model.head, "out": model.out})
  shapes = {name: tuple(value.shape) for name, value in parts.state_dict().items()}
  parts.load_state_dict({n: torch.from_numpy(seeded.tensor(n, s)) for n, s in shapes.items()})
  z = torch.from_numpy(seeded.tensor("embeddings", (12, 512)) * 20).requires_grad_()
  label = torch.arange(CLASSES).repeat_interleave(4)
  optimiser = torch.optim.SGD(parts.parameters(), lr=0.03, momentum=0.9, weight_decay=3e-5)
  found = {}
  for _ in range(3):
    optimiser.zero_grad()
    z.grad = None
    logits = parts["out"](parts["head"](z))
    loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    if not found:
      found = {"logits": logits, "loss": loss, "gradient": z.grad}
      found = {name: value.detach().numpy().copy() for name, value in found.items()}
    optimiser.step()
  kept = {f"after/{n}": seeded.sample(v.detach().numpy()) for n, v in parts.named_parameters()}
  return found | kept


def density(density_file) -> dict[str, np.ndarray]:
  """Returns the scores of ten embeddings under the Gaussian of forty."""
  fitted, asked = (
    torch.nn.functional.normalize(torch.from_numpy(seeded.tensor(name, (n, 24))), dim=1)
    for name, n in (("fitted", 40), ("asked", 10))
  )
  gaussian = density_file.GaussianDensityTorch()
  gaussian.fit(fitted)
  return {"distance": gaussian.predict(asked).numpy()}


def patches(cutpaste_file) -> dict[str, np.ndarray]:
  """Returns the deciles of the share of an image that each kind of patch changes."""
  random.seed(0)
  torch.manual_seed(0)
  picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
  found = {}
  for name in ("Normal", "Scar"):
    paste = getattr(cutpaste_file, f"CutPaste{name}")(colorJitter=None)
    image = Image.fromarray(picture)
    pasted = (np.asarray(paste(image)[1]) for _ in range(4000))
    shares = [np.mean((p != picture).any(-1)) for p in pasted]
    found[f"share/{name}"] = np.quantile(shares, np.linspace(0.1, 0.9, 9))
  return found


def main() -> None:
  """Writes everything."""
  sys.path.insert(0, sys.argv[1])  # before this folder, which has a cutpaste too
  import cutpaste
  import density as density_file
  import model

  found = head(model) | density(density_file) | patches(cutpaste)
  np.savez(HERE / "cutpaste.npz", **found)


if __name__ == "__main__":
  main()
