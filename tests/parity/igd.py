"""Writes igd.npz: images, critic, losses and gradients of tianyu0207/IGD, the global model.

The weights are random, made alike by seeded.py on both sides, and few: 4 channels where the authors
have 64, for batch norm keeps to its first statistics. The losses are put together here, as in the
middle of their training loop, but that the critic's guesses are compared with their own mixtures.
Needs torch and a copy of that repository: `python tests/parity/igd.py <repository>`; torchvision,
of which their encoder is, is replaced by a mock.
"""

import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
DIM, LATENT, CHANNELS, SPAN = 4, 6, 512, 2.1179 + 2.6400
WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
PARTS = ("ln11.weight", "up1.conv.conv.weight", "rb3.conv_shortcut.conv.conv.weight", "bn.weight")


def seed(net: torch.nn.Module, who: str) -> torch.nn.Module:
  """Gives seeded weights to a network, but not to its batch norm's statistics."""
  for name, value in net.named_parameters():
    value.data = torch.from_numpy(seeded.tensor(who + name, tuple(value.shape)))
  return net.eval()


def original(repository: str, dim: int, latent: int):
  """Returns the authors' auto-encoder without its encoder, critic and multi-scale similarity."""
  sys.path.insert(0, repository)
  for name in ("torchvision", "torchvision.models"):
    sys.modules[name] = MagicMock()
  torch.nn.Sequential, sequential = lambda *_: torch.nn.Identity(), torch.nn.Sequential
  from multi_scale.pytorch_msssim_residual_map import ms_ssim
  from p256.mvtec_module import VisualDiscriminator256, twoin1Generator256

  generator = twoin1Generator256(dim=dim, latent_dimension=latent)
  torch.nn.Sequential = sequential
  return generator, VisualDiscriminator256(dim=dim), ms_ssim


def main() -> None:
  """Writes all of it for three images."""
  generator, critic, ms_ssim = original(sys.argv[1], DIM, LATENT)
  generator, critic = seed(generator, "generator."), seed(critic, "critic.")
  image = np.concatenate(seeded.images(((256, 256),) * 3))
  x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
  alpha = torch.from_numpy(np.random.default_rng(1).uniform(0, 0.5, 3).astype("f4"))
  pooled = torch.from_numpy(seeded.tensor("pooled", (3, CHANNELS)) * CHANNELS**0.5)
  centre, sigma = torch.from_numpy(seeded.tensor("centre", (LATENT,))), 3.0

  z = generator.ln11(pooled)
  fake = generator.generate(z)
  similarity = ms_ssim(x, fake, data_range=SPAN, size_average=True, win_size=11, weights=WEIGHTS)
  restored = 0.85 * (1 - similarity[0]) + 0.15 * torch.nn.functional.l1_loss(x, fake) / SPAN
  mixed = alpha[:, None] * z + (1 - alpha)[:, None] * torch.flip(z, dims=[0])
  made = generator.generate(mixed)
  judged = critic(made)
  far = 1 - torch.exp(-torch.sum((z - centre) ** 2, dim=1) / sigma)
  loss = restored + far.mean() + 0.1 * torch.mean(judged**2)
  loss.backward()
  blend = (fake + 0.2 * (x - fake)).detach()
  critic.zero_grad()
  guess = torch.mean((critic(made.detach()) - alpha) ** 2) + torch.mean(critic(blend) ** 2)
  guess.backward()

  found = {
    "image": seeded.sample(fake.detach().permute(0, 2, 3, 1).numpy()),
    "judged": judged.detach().numpy(),
    "restored": restored.detach().numpy(),
    "far": far.detach().numpy(),
    "loss": loss.detach().numpy(),
    "guess": guess.detach().numpy(),
  }
  weights = dict(generator.named_parameters())
  for part in PARTS:
    gradient = weights[part].grad
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[gradient.ndim]
    found[f"gradient/{part}"] = seeded.sample(gradient.permute(axes).numpy())
  gradient = critic.rb2.conv_1.conv.weight.grad.permute(2, 3, 1, 0)
  found["gradient/critic"] = seeded.sample(gradient.numpy())
  np.savez(HERE / "igd.npz", **found)


if __name__ == "__main__":
  main()
