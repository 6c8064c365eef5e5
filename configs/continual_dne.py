"""DNE in the continual setting: category after category, without forgetting.

  python -m imiad_jax.main --config=configs/continual_dne.py

runs on drawn pictures with a small pretrained network in under two minutes on two cores. The
paper's own run (ViT-B/16, 50 epochs a category, MVTec AD) is

  python -m imiad_jax.main --config=configs/continual_dne.py:backbone=paper,dataset=mvtec_ad \\
    --config.data_dir=<folder>

for which the authors took the "sam" weights of ViT-B/16, Google's file sam/ViT-B_16.npz.
"""

from imiad_jax import config


def get_config(arg: str | None = None):
  """Returns the config for "dataset=,backbone="."""
  given = config.parse(arg, dataset="synthetic", backbone="efficientnet_lite0")
  out = config.make(given["dataset"], config.part("dne", "continual", given["backbone"]))
  out.gallery = 8
  return out
