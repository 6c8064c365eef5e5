"""Writes simplenet.npz: what the authors' code gives for seeded features, weights and noise.

The original is github.com/DonaldRR/SimpleNet at 351a2b8; it needs torch, scipy, scikit-learn,
pandas, matplotlib, tensorboard and tqdm: `python tests/parity/simplenet.py <its folder>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

sys.path.insert(0, sys.argv[1])
import simplenet

DIM, HIDDEN, NOISE = 12, 7, 0.3
SHAPES = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


class Backbone(torch.nn.Module):
  """Gives seeded features of two images for the number of a batch."""

  def __init__(self):
    super().__init__()
    self.layer2, self.layer3 = torch.nn.Identity(), torch.nn.Identity()

  def forward(self, batch):
    for stage, (side, c) in SHAPES.items():
      x = seeded.tensor(f"{int(batch.max())}/{stage}", (2, side * side, c))
      getattr(self, stage)(torch.from_numpy(x.reshape(2, side, side, c)).permute(0, 3, 1, 2))


class Log:
  """Remembers the losses."""

  def __init__(self):
    self.loss, self.logger, self.g_iter = [], self, 0

  def add_scalar(self, name, value, step):
    if name == "loss":
      self.loss.append(float(value.detach()))

  def step(self):
    self.g_iter += 1


def image(batch: int) -> torch.Tensor:
  """Returns two images that tell the backbone the number of their batch."""
  return torch.full((2, 3, 64, 64), float(batch))


def main() -> None:
  """Writes embeddings, and of two training steps the losses, parameters, scores and maps."""
  net = simplenet.SimpleNet("cpu")
  net.load(
    Backbone(),
    ["layer2", "layer3"],
    "cpu",
    (3, 64, 64),
    *(DIM, DIM),
    noise_std=NOISE,
    dsc_hidden=HIDDEN,
    dsc_margin=0.5,
    pre_proj=1,
  )
  net.logger = Log()
  networks = {"adaptor": net.pre_projection, "discriminator": net.discriminator}
  for name, network in networks.items():
    state = network.state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    network.load_state_dict(
      {k: torch.from_numpy(seeded.tensor(f"{name}.{k}", shape)) for k, shape in shapes.items()}
    )
  drawn = []

  def normal(mean, std, shape):
    drawn.append(shape)
    return std * torch.from_numpy(seeded.tensor(f"noise{len(drawn)}", (1, *shape))[0])

  torch.normal = normal
  found = {"embedding": seeded.sample(net._embed(image(0))[0].numpy())}
  found["adapted"] = seeded.sample(net.pre_projection(net._embed(image(0))[0]).detach().numpy())
  for i in range(2):
    net._train_discriminator([{"image": image(i)}])
    found[f"{i}/loss"] = np.float32(net.logger.loss[i])
    for name, network in networks.items():
      for k, value in network.state_dict().items():
        found[f"{i}/{name}.{k}"] = value.numpy().copy()
  scores, maps, _ = net._predict(image(2))
  found["image"] = np.array(scores)
  found["map"] = seeded.sample(np.array(maps))
  np.savez(Path(__file__).parent / "simplenet.npz", **found)


if __name__ == "__main__":
  main()
