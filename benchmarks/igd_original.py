"""Trains the authors' IGD (1ce9952) on what our small IGD has: features, images, widths, steps.

  python benchmarks/igd_original.py --category=bottle --data=bottle.npz
  python benchmarks/igd_original.py --original=<folder> --data=bottle.npz

The first writes images and features, with hyperparameters. The second, in an environment with torch
and scikit-learn, needs a checkout of github.com/tianyu0207/IGD, whose decoder, critic and
similarity are trained as its script of the global model does, but that the centre is renewed each
pass, as ours is. Theirs takes images of 256 pixels only, so that it has one more width than ours
and the pooled features are of that size. It prints the image AUROC of the score and of its halves,
restoration and Gaussian, of three seeds.
"""

import sys
from pathlib import Path

import numpy as np
import original

SEEDS, SIZE = 3, 256


def export(category: str) -> dict[str, np.ndarray]:
  """Returns images [n,h,w,3], pooled features [n,c], labels [n] and hyperparameters."""
  from imiad_jax import features, plugins
  from imiad_jax.methods import igd

  kw = plugins.resolve("igd", igd.Model, {"backbone": "efficientnet_lite0"} | igd.SMALL)
  net, stage = features.backbone(kw["backbone"]), kw["stage"]
  out = {k: np.asarray(x) for k, x in kw.items() if isinstance(x, int | float)}
  out["dim"] = np.asarray(kw["widths"][-1])
  for split, pixels in original.pictures(category, SIZE):
    out[split] = pixels.image
    out[f"{split}_pooled"] = features.extract(net, (stage,), pixels.image)[stage].mean((1, 2))
    out[f"{split}_label"] = (pixels.region > 0).any((1, 2))
  return out


def restored(parity, similarity, x, made):
  """Returns the error of each image, as their test has it; `parity` has their constants."""
  given = {"data_range": parity.SPAN, "win_size": 11, "weights": parity.WEIGHTS}
  unlike = 1 - similarity(x, made, size_average=False, **given)[0]
  return 0.85 * unlike + 0.15 * (x - made).abs().mean((1, 2, 3)) / parity.SPAN


def far(z, centre, width):
  """Returns the Gaussian's part of the score of each image."""
  return 1 - (-((z - centre) ** 2).sum(1) / width).exp()


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains and tests, with the authors' networks, similarity, losses and optimisers."""
  sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "parity"))
  import igd as parity  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from sklearn.metrics import roc_auc_score

  kw = {k: x.item() for k, x in data.items() if not x.ndim}
  torch.set_flush_denormal(True)

  def given(split: str):
    image = ((data[split] / 255 - parity.MEAN) / parity.STD).astype(np.float32)
    pooled = torch.from_numpy(data[f"{split}_pooled"])
    return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous(), pooled

  x, pooled = given("train")
  steps = kw["epochs"] * -(-len(x) // kw["batch"])
  for seed in range(SEEDS):
    torch.manual_seed(seed)
    net, critic, similarity = parity.original(sys.path[0], kw["dim"], kw["latent"])
    net.ln11 = torch.nn.Linear(pooled.shape[1], kw["latent"])
    net.eval()

    adam = torch.optim.Adam(net.parameters(), kw["lr"], (0.0, 0.9), weight_decay=kw["weight_decay"])
    rival = torch.optim.Adam(critic.parameters(), kw["lr"], (0.0, 0.9))
    step, centre = 0, None
    for _ in range(kw["epochs"]):
      with torch.no_grad():
        z = net.ln11(pooled)
        mean = z.mean(0)
        mean[(mean.abs() < 0.1) & (mean < 0)] = -0.1
        mean[(mean.abs() < 0.1) & (mean > 0)] = 0.1
        near = mean if centre is None else centre
        width = ((z - near) ** 2).sum(1).mean().clamp(min=1)
        centre = mean
      for rows in torch.randperm(len(x)).split(kw["batch"]):
        for group in adam.param_groups + rival.param_groups:
          group["lr"] = kw["lr"] * (1 - step / steps) ** 0.9
        z = net.ln11(pooled[rows])
        alpha = torch.empty(len(rows), 1).uniform_(0, 0.5)
        mixed = alpha * z + (1 - alpha) * z.flip(0)
        loss = restored(parity, similarity, x[rows], net.generate(z)).mean()
        loss = loss + far(z, centre, width).mean()
        loss = loss + kw["realism"] * (critic(net.generate(mixed)) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
          made, again = net.generate(mixed), net.generate(net.ln11(pooled[rows]))
        blend = again + 0.2 * (x[rows] - again)
        guess = ((critic(made) - alpha[:, 0]) ** 2).mean() + (critic(blend) ** 2).mean()
        rival.zero_grad()
        guess.backward()
        rival.step()
        step += 1
    image, found = given("test")
    with torch.no_grad():
      z = net.ln11(found)
      parts = zip(image.split(8), net.generate(z).split(8), strict=True)
      error = torch.cat([restored(parity, similarity, *pair) for pair in parts])
      distance = far(z, centre, width)
    of = {"score": (error + distance) / 2, "restoration": error, "Gaussian": distance}
    label = data["test_label"]
    told = ", ".join(f"{k} {roc_auc_score(label, v.numpy()):.3f}" for k, v in of.items())
    print(f"seed {seed}, image AUROC: {told}; last loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
  original.run("The authors' IGD with our small budget.", export, learn)
