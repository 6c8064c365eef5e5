"""Trains the common PyTorch FAVAE (open-iad, 05044fe) on what our small FAVAE has.

  python benchmarks/favae_original.py --category=bottle --data=bottle.npz
  python benchmarks/favae_original.py --original=<folder> --data=bottle.npz

The first writes images, the features that are to be rebuilt, and hyperparameters. The second, in an
environment with torch, torchvision, scipy and scikit-learn, needs a checkout of
github.com/M-3LAB/open-iad, whose own network, as narrow as ours, is trained and tested by its own
loops; adapters have the channels of our features. It prints the image and pixel AUROC after the
last epoch, of three seeds.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import original

SEEDS = 3
LAYERS = ("7", "10")  # of its decoder, with strides of 16 and 8, as layer3 and layer2 have


def export(category: str) -> dict[str, np.ndarray]:
  """Returns images [n,3,h,w] in [0,1], features [n,c,h',w'], defects, hyperparameters."""
  from imiad_jax import features, plugins
  from imiad_jax.methods import favae

  kw = plugins.resolve("favae", favae.Model, {"backbone": "efficientnet_lite0"} | favae.SMALL)
  net, stages = features.backbone(kw["backbone"]), kw["stages"]
  out = {k: np.asarray(kw[k]) for k in ("epochs", "batch", "lr", "weight_decay", "kl", "sigma")}
  for split, pixels in original.pictures(category, kw["size"]):
    found = features.extract(net, stages, pixels.image)
    out |= {f"{split}{i}": np.moveaxis(found[stage], -1, 1) for i, stage in enumerate(stages)}
    out[split] = np.moveaxis(pixels.image, -1, 1) / np.float32(255)
    out[f"{split}_region"] = pixels.region > 0
  return out


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains and tests as its script does, but for smoothing maps as images, not row by row."""
  folder = sys.path[0]
  sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))
  import favae as parity  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from scipy.ndimage import gaussian_filter

  module = parity.original(folder)
  module.gaussian_filter = lambda row, sigma: row
  wanted = {
    image.tobytes(): stages
    for split in ("train", "test")
    for image, *stages in zip(data[split], data[f"{split}0"], data[f"{split}1"], strict=True)
  }

  def extractor(x, net, target_layers):
    if net is not None:
      found = [x := layer(x) for layer in net]
      return [found[int(name)] for name in LAYERS], x
    pairs = [wanted[image.numpy().tobytes()] for image in x]
    return [torch.from_numpy(np.stack(stage)) for stage in zip(*pairs, strict=True)], x

  def adapter(channels: int):
    return torch.nn.Sequential(
      torch.nn.Conv2d(64, channels, 1), torch.nn.ReLU(), torch.nn.Conv2d(channels, channels, 1)
    )

  def batches(split: str, size: int):
    region = data[f"{split}_region"]
    rows = [
      {"img": image, "mask": mask[None], "label": mask.any(), "img_src": ""}
      for image, mask in zip(data[split], region.astype(np.float32), strict=True)
    ]
    return torch.utils.data.DataLoader(rows, batch_size=size, shuffle=split == "train")

  for seed in range(SEEDS):
    torch.manual_seed(seed)
    model = module.FAVAE.__new__(module.FAVAE)
    net = model.vaenet = module.NetFAVAE()
    net.adapter = torch.nn.ModuleList(adapter(data[f"train{i}"].shape[1]) for i in range(2))
    model.teacher = SimpleNamespace(features=None, eval=lambda: None)
    model.feature_extractor = extractor
    model.device = "cpu"
    model.config = {"num_epochs": data["epochs"].item(), "_kld_weight": data["kl"].item()}
    model.criterion_1 = torch.nn.MSELoss(reduction="sum")
    model.criterion_2 = torch.nn.MSELoss(reduction="none")
    rate, decay = data["lr"].item(), data["weight_decay"].item()
    model.optimizer = torch.optim.Adam(net.parameters(), lr=rate, weight_decay=decay)
    model.img_gt_list, model.img_pred_list, model.img_path_list = [], [], []
    model.clear_all_list = lambda: None
    model.train_model(batches("train", data["batch"].item()), 0)
    model.prediction(batches("test", 1))
    maps = np.array([gaussian_filter(x, data["sigma"].item()) for x in model.pixel_pred_list])
    found = original.auroc(maps.max((1, 2)), maps, data["test_region"])
    print(f"seed {seed}: {found}", flush=True)


if __name__ == "__main__":
  original.run("The common PyTorch FAVAE with our small budget.", export, learn)
