"""Trains the authors' UniAD (a5b9d9d) on what our small UniAD has: features, widths, steps, rates.

  python benchmarks/uniad_original.py --category=bottle --data=bottle.npz
  python benchmarks/uniad_original.py --original=<folder> --data=bottle.npz

The first writes features and hyperparameters. The second, in an environment with torch and
scikit-learn, needs a checkout of github.com/zhiyuanyou/UniAD, whose neck and transformer are
trained as its script does on several GPUs; it prints the image and pixel AUROC after the last
epoch, of three seeds.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import original

SEEDS = 3


def export(category: str) -> dict[str, np.ndarray]:
  """Returns features [n,c,h',w'] of a category, defects [n,h,w] and hyperparameters."""
  from imiad_jax import features, plugins
  from imiad_jax.methods import uniad

  kw = plugins.resolve("uniad", uniad.Model, {"backbone": "efficientnet_lite0"} | uniad.SMALL)
  net, stages = features.backbone(kw["backbone"]), kw["stages"]
  out = {k: np.asarray(x) for k, x in kw.items() if isinstance(x, int | float)}
  for split, pixels in original.pictures(category, kw["size"]):
    found = features.extract(net, stages, pixels.image)
    out |= {f"{split}{i}": np.moveaxis(found[stage], -1, 1) for i, stage in enumerate(stages)}
    out[f"{split}_region"] = pixels.region > 0
  return out


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains and tests, with the authors' neck, transformer, noise, loss and optimiser."""
  folder = sys.path[0]
  sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))
  import torch  # pyright: ignore[reportMissingImports]
  import uniad as parity  # pyright: ignore[reportMissingImports]

  neck, reconstruction = parity.original(folder)
  kw = {k: x.item() for k, x in data.items() if not x.ndim}
  shapes = [x.shape for k, x in data.items() if k.startswith("train") and x.ndim == 4]
  strides, channels = [kw["size"] // s[-1] for s in shapes], [s[1] for s in shapes]
  align = neck.MFCN(channels, [sum(channels)], strides, strides[-1:])
  near = SimpleNamespace(neighbor_size=[kw["neighbours"]] * 2, mask=[True] * 3)
  noise = SimpleNamespace(scale=kw["jitter"], prob=1.0)

  def given(split: str, rows) -> dict[str, object]:
    found = [torch.from_numpy(data[f"{split}{i}"][rows]) for i in range(len(shapes))]
    return align({"features": found})

  for seed in range(SEEDS):
    torch.manual_seed(seed)
    net = reconstruction.UniAD(
      *([sum(channels)], strides[-1:], shapes[-1][2:], noise, near, kw["width"], "learned", None),
      {"method": "xavier_uniform"},
      nhead=kw["heads"],
      num_encoder_layers=kw["layers"],
      num_decoder_layers=kw["layers"],
      dim_feedforward=kw["hidden"],
      dropout=kw["dropout"],
    )
    optimiser = torch.optim.AdamW(net.parameters(), kw["lr"], weight_decay=kw["weight_decay"])
    steps = torch.optim.lr_scheduler.StepLR(optimiser, int(0.8 * kw["epochs"]), 0.1)
    for _ in range(kw["epochs"]):
      for rows in torch.randperm(shapes[0][0]).split(kw["batch"]):
        out = net(given("train", rows.numpy()))
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(out["feature_rec"], out["feature_align"]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), kw["clip"])
        optimiser.step()
      steps.step()
    net.eval()
    with torch.no_grad():
      maps = net(given("test", slice(None)))["pred"]
    score = torch.nn.functional.avg_pool2d(maps, kw["window"], stride=1).amax((1, 2, 3))
    found = original.auroc(score.numpy(), maps[:, 0].numpy(), data["test_region"])
    print(f"seed {seed}: {found}", flush=True)


if __name__ == "__main__":
  original.run("The authors' UniAD with our small budget.", export, learn)
