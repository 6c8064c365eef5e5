"""Writes bgad.npz: hidden variables, determinants, position codes, losses and gradients.

The original is github.com/xcyao00/BGAD, 2806d37, on github.com/vislearn/FrEIA, 4212496. The weights
are made alike by seeded.py on both sides. Needs torch and scipy:
`python tests/parity/bgad.py <folder of BGAD> <folder of FrEIA>`.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
DIM, CODE, STEPS, SIDE = 7, 8, 3, 12
BETA, MARGIN = 0.05, 0.1


def main(bgad: str, freia: str) -> None:
  """Writes everything in one file."""
  sys.path[:0] = [bgad, freia]
  from losses import losses as original
  from models import load_flow_model, positionalencoding2d

  np.random.seed(0)
  torch.manual_seed(0)
  args = SimpleNamespace(
    flow_arch="conditional_flow_model", coupling_layers=STEPS, clamp_alpha=1.9, pos_embed_dim=CODE
  )
  model = load_flow_model(args, DIM)
  for name, value in model.named_parameters():
    if value.requires_grad:
      given = seeded.tensor(name, tuple(value.shape))
      value.data = torch.from_numpy(given + 12 * name.endswith("global_scale"))
  code = positionalencoding2d(CODE, SIDE, SIDE).permute(1, 2, 0)
  x = torch.randn(SIDE * SIDE, DIM)
  mask = torch.rand(SIDE * SIDE) < 0.2
  x[mask] += 1
  x[:8] *= 2
  z, log_det = model(x, [code.reshape(-1, CODE)])
  likelihood = (-DIM / 2 * np.log(2 * np.pi) - 0.5 * (z**2).sum(1) + log_det) / DIM
  edges = original.get_logp_boundary(likelihood, mask.float(), BETA, MARGIN)
  fixed = likelihood.detach()
  normal = original.normal_fl_weighting(fixed[~mask])
  weights = torch.zeros(len(x))
  weights[~mask], weights[mask] = normal, original.abnormal_fl_weighting(fixed[mask])
  bare = torch.nn.functional.logsigmoid(likelihood[~mask])
  found = {
    "rotations": np.stack([block.w_perm.numpy() for block in model.module_list]),
    "code": code.numpy(),
    "x": x.numpy(),
    "mask": mask.numpy(),
    "z": z.detach().numpy(),
    "log_det": log_det.detach().numpy(),
    "likelihood": fixed.numpy(),
  }
  for focal in (False, True):
    likely = -(bare * normal if focal else bare).mean()
    given = weights if focal else None
    pull, push = original.calculate_bg_spp_loss(likelihood, mask.float(), edges, weights=given)
    loss = likely + pull + push
    parts = np.array([v.item() for v in (likely, pull, push)])
    found[f"losses/{'focal' if focal else 'plain'}"] = parts
  trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
  loss.backward()
  found |= {f"gradient/{k}": v.grad.numpy() for k, v in trained.items()}
  np.savez_compressed(HERE / "bgad.npz", **found)


if __name__ == "__main__":
  main(*sys.argv[1:])
