"""Writes fastflow.npz: hidden variables, determinants, loss, gradients, two steps and a map.

The original is github.com/gathierry/FastFlow, 2cf1f2f, on github.com/vislearn/FrEIA, 1779d1f, which
it names. The weights are made alike by seeded.py on both sides. Given its features, it needs no
backbone and so no timm; needs torch and scipy:
`python tests/parity/fastflow.py <folder of FastFlow> <folder of FrEIA>`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
SIZE, STEPS = 32, 4
CHANNELS, STRIDES = (7, 4, 6), (4, 8, 16)


class Given(torch.nn.Module):
  """A network whose features are its input."""

  feature_info = SimpleNamespace(channels=lambda: list(CHANNELS), reduction=lambda: list(STRIDES))

  def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the features."""
    return features


def original(fastflow: str, freia: str) -> torch.nn.Module:
  """Returns the reference model with seeded weights."""
  models = SimpleNamespace(
    vision_transformer=SimpleNamespace(VisionTransformer=SimpleNamespace),
    cait=SimpleNamespace(Cait=SimpleNamespace),
  )
  sys.modules["timm"] = SimpleNamespace(create_model=lambda *_, **__: Given(), models=models)
  sys.path[:0] = [fastflow, freia]
  from fastflow import FastFlow

  model = FastFlow("resnet18", flow_steps=STEPS, input_size=SIZE)
  for name, value in model.named_parameters():
    if value.requires_grad:
      given = seeded.tensor(name, tuple(value.shape))
      value.data = torch.from_numpy(given + 12 * name.endswith("global_scale"))
  return model


def nhwc(x: torch.Tensor) -> np.ndarray:
  """Returns a map [b,h,w,c]."""
  return x.detach().permute(0, 2, 3, 1).numpy()


def main(fastflow: str, freia: str) -> None:
  """Writes everything in one file."""
  torch.manual_seed(0)
  np.random.seed(0)
  model = original(fastflow, freia)
  grids = [SIZE // stride for stride in STRIDES]
  found = {}
  for i, flow in enumerate(model.nf_flows):
    orders = [block.w_perm[..., 0, 0].argmax(1).numpy() for block in flow.module_list]
    found[f"permutations/{i}"] = np.stack(orders)
  optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1)
  for step in range(2):
    features = [torch.randn(3, c, g, g) for c, g in zip(CHANNELS, grids, strict=True)]
    for i, x in enumerate(features):
      found[f"features/{step}/{i}"] = nhwc(x)
    if step == 0:
      with torch.no_grad():
        for i, (norm, flow) in enumerate(zip(model.norms, model.nf_flows, strict=True)):
          z, found[f"log_det/{i}"] = flow(norm(features[i]))
          found[f"z/{i}"] = nhwc(z)
        found["map"] = model.eval()(features)["anomaly_map"][:, 0].numpy()
    loss = model.train()(features)["loss"]
    optimiser.zero_grad()
    loss.backward()
    trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
    if step == 0:
      found |= {f"gradient/{k}": v.grad.numpy().copy() for k, v in trained.items()}
    optimiser.step()
    found[f"loss/{step}"] = loss.detach().numpy()
  found |= {f"stepped/{k}": v.detach().numpy() for k, v in trained.items()}
  np.savez_compressed(HERE / "fastflow.npz", **found)


if __name__ == "__main__":
  main(*sys.argv[1:])
