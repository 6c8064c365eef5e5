"""Writes simplenet.npz: what the authors' code gives for seeded features, weights and noise.

The original is github.com/DonaldRR/SimpleNet at 351a2b8; it needs torch, scipy, scikit-learn,
pandas, matplotlib, tensorboard and tqdm: `python tests/parity/simplenet.py <its folder>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch
from stand_in import Backbone

sys.path.insert(0, sys.argv[1])
import simplenet

DIM, HIDDEN, NOISE = 12, 7, 0.3
SHAPES = {"layer2": (8, 6), "layer3": (4, 10)}  # side, channels


class Log:
  """Remembers the losses."""

  def __init__(self):
    self.loss, self.logger, self.g_iter = [], self, 0

  def add_scalar(self, name, value, step):
    if name == "loss":
      self.loss.append(float(value.detach()))

  def step(self):
    self.g_iter += 1


def main() -> None:
  """Writes embeddings, and of two training steps the losses, parameters, scores and maps."""
  net, backbone = simplenet.SimpleNet("cpu"), Backbone(SHAPES, 2)
  net.load(
    backbone,
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
  found = {"embedding": seeded.sample(net._embed(backbone.batch(0, 64))[0].numpy())}
  found["adapted"] = seeded.sample(
    net.pre_projection(net._embed(backbone.batch(0, 64))[0]).detach().numpy()
  )
  for i in range(2):
    net._train_discriminator([{"image": backbone.batch(i, 64)}])
    found[f"{i}/loss"] = np.float32(net.logger.loss[i])
    for name, network in networks.items():
      for k, value in network.state_dict().items():
        found[f"{i}/{name}.{k}"] = value.numpy().copy()
  scores, maps, _ = net._predict(backbone.batch(2, 64))
  found["image"] = np.array(scores)
  found["map"] = seeded.sample(np.array(maps))
  np.savez(Path(__file__).parent / "simplenet.npz", **found)


if __name__ == "__main__":
  main()
