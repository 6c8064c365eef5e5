"""Writes csflow.npz: what the authors' flow makes of seeded features, and one step of training.

The configuration is theirs but for narrow features and subnets; the weights are made alike by
seeded.py on both sides. Needs torch and marco-rudolph/cs-flow at 88a13b8:
`python tests/parity/csflow.py <its folder>`.
"""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
CHANNELS, HIDDEN, GRID, IMAGES = 24, 8, 8, 2
SCALE = np.float32(100)  # of the features, so that the gradient is clipped


def original(folder: str) -> tuple[ModuleType, ModuleType]:
  """Imports the authors' code without what it needs for images and tables; narrows its flow."""
  for name in ("torchvision", "torchvision.datasets", "efficientnet_pytorch"):
    sys.modules[name] = ModuleType(name)
  for name in ("datasets", "transforms"):
    setattr(sys.modules["torchvision"], name, None)
  sys.modules["torchvision.datasets"].ImageFolder = None
  sys.modules["efficientnet_pytorch"].EfficientNet = None
  sys.path.append(folder)
  import config

  config.n_feat, config.fc_internal, config.map_size = CHANNELS, HIDDEN, (GRID, GRID)
  import model

  return config, model


def main() -> None:
  """Writes z and log|det| by scale, the loss, the gradient's norm, and samples of what follows."""
  config, module = original(sys.argv[1])
  flow = module.get_cs_flow_model(CHANNELS)
  flow.load_state_dict(
    {n: torch.from_numpy(seeded.tensor(n, tuple(v.shape))) for n, v in flow.state_dict().items()}
  )
  shapes = [(IMAGES, CHANNELS, GRID >> i, GRID >> i) for i in range(3)]
  x = [torch.from_numpy(SCALE * seeded.tensor(f"x{i}", shape)) for i, shape in enumerate(shapes)]
  optimiser = torch.optim.Adam(flow.parameters(), lr=config.lr_init, eps=1e-4, weight_decay=1e-5)
  z, log_det = module.nf_forward(flow, x)
  loss = module.get_loss(z, log_det)
  loss.backward()
  norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), config.max_grad_norm)
  found = {"loss": loss.item(), "norm": norm.item()}
  steps = [m for m in flow.module_list if isinstance(m, module.ParallelPermute)]
  found["permutations"] = np.array([[p.numpy() for p in m.perm] for m in steps], np.int32)
  for i, (m, share) in enumerate(zip(z, log_det, strict=True)):
    found[f"z{i}"] = m.detach().permute(0, 2, 3, 1).numpy()
    found[f"log_det{i}"] = share.detach().numpy()
  old = {name: p.detach().clone() for name, p in flow.named_parameters()}
  optimiser.step()
  for name, p in flow.named_parameters():
    found[f"gradient/{name}"] = seeded.sample(p.grad.numpy())[::8]
    found[f"step/{name}"] = seeded.sample((p - old[name]).detach().numpy())[::8]
  np.savez(HERE / "csflow.npz", **found)


if __name__ == "__main__":
  main()
