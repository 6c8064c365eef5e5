"""Trains the authors' CFA (0708086) on what our small CFA has: features, passes, rate.

  python benchmarks/cfa_original.py --category=mtd:<folder> --data=tiles.npz
  python benchmarks/cfa_original.py --original=<folder> --data=tiles.npz

The first writes features and hyperparameters. The second, in an environment with torch, einops,
scipy, scikit-learn, scikit-image and tqdm, needs a checkout of
github.com/sungwool/CFA_for_anomaly_localization, whose descriptor, bank, losses and maps are used;
it prints the image and pixel AUROC before training and after each pass, of three seeds.
"""

from typing import Any

import numpy as np
import original

SEEDS = 3


def export(category: str) -> dict[str, np.ndarray]:
  """Returns features [n,c,h,w] of a category, where its defects are [n,h,w], hyperparameters."""
  from imiad_jax import features, plugins
  from imiad_jax.methods import cfa

  kw = plugins.resolve("cfa", cfa.Model, {"backbone": "efficientnet_lite0"} | cfa.SMALL)
  net = features.backbone(kw["backbone"])
  out = {k: np.asarray(kw[k]) for k in ("epochs", "batch", "lr", "weight_decay", "sigma")}
  for split, pixels in original.pictures(category, kw["size"]):
    out[f"{split}_region"] = pixels.region > 0
    found = features.extract(net, kw["stages"], pixels.image)
    out |= {f"{split}{i}": np.moveaxis(found[s], -1, 1) for i, s in enumerate(kw["stages"])}
  return out


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains and tests as the authors' script does."""
  import torch  # pyright: ignore[reportMissingImports]
  from utils import cfa, coordconv, metric  # pyright: ignore[reportMissingImports]

  torch.Tensor.cuda = lambda self: self  # pyright: ignore  # the coordinates ask for a GPU
  stages = sum(k.startswith("train") and k[5:].isdigit() for k in data)
  channels = sum(data[f"train{i}"].shape[1] for i in range(stages))

  class Descriptor(cfa.Descriptor):
    """As the authors' for an EfficientNet, of whose width only that of their B5 is known."""

    def __init__(self, *_: Any):
      torch.nn.Module.__init__(self)
      self.cnn = "effnet-b5"
      self.layer = coordconv.CoordConv2d(channels, channels, 1)

  cfa.Descriptor = Descriptor

  def given(split: str, rows: Any) -> list[Any]:
    return [torch.from_numpy(data[f"{split}{i}"][rows]) for i in range(stages)]

  def tested(model: Any) -> str:
    region = data["test_region"]
    with torch.no_grad():
      parts = torch.arange(len(region)).split(32)
      found = torch.cat([model.eval()(given("test", rows))[1][:, 0] for rows in parts])
    maps = metric.upsample(found, size=region.shape[1:], mode="bilinear")
    maps = metric.gaussian_smooth(maps, sigma=data["sigma"].item())
    return original.auroc(maps.max((1, 2)), maps, region)

  for seed in range(SEEDS):
    torch.manual_seed(seed)
    n, batch = len(data["train0"]), data["batch"].item()

    def shuffled(n: int = n, batch: int = batch) -> Any:
      return torch.randperm(n)[: n // batch * batch].split(batch)

    loader = [(rows, None, None) for rows in shuffled()]
    model = cfa.DSVDD(lambda rows: given("train", rows), loader, "effnet-b5", 1, 1, "cpu")
    rate, decay = data["lr"].item(), data["weight_decay"].item()
    adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, amsgrad=True)
    print(f"seed {seed}, untrained: {tested(model)}", flush=True)
    for i in range(data["epochs"].item()):
      model.train()
      for rows in shuffled():
        adam.zero_grad()
        loss, _ = model(given("train", rows))
        loss.backward()
        adam.step()
      print(f"seed {seed}, pass {i + 1}: {tested(model)}", flush=True)


if __name__ == "__main__":
  original.run("The authors' CFA with our small budget.", export, learn)
