"""What global features find: GCAD with each global network, beside methods that see patches.

  python -m imiad_jax.main --config=configs/ablation_global_features.py

runs on the two drawn products whose parts must belong together, with a small pretrained network, in
four and a half minutes on two cores. Expect bottleneck and attention, which see the whole image, to
find mismatches, the flow a few of them, and all others none. The logical anomalies of MVTec LOCO
with the methods' own hyperparameters are

  python -m imiad_jax.main --config=configs/ablation_global_features.py:dataset=mvtec_loco \\
    --config.data_dir=<folder>

for which take an accelerator; `:dataset=synthetic` takes the two assembled products of that data
set. "logical" is the image AUROC of kinds of defect of which every part looks good. With
`:branches` the methods that have no global network are left out.
"""

from imiad_jax import config
from imiad_jax.methods import gcad

LOCAL = ("patchcore", "padim", "cfa")


def get_config(arg: str | None = None):
  """Returns the config for "dataset=,backbone=,branches="."""
  given = config.parse(arg, dataset="variants", backbone="", branches="")
  backbone = given["backbone"] or (config.SMALL if config.drawn(given["dataset"]) else "paper")
  parts = [config.part("gcad", "unsupervised", backbone, branch=b) for b in gcad.BRANCHES]
  if not given["branches"]:
    parts += [config.part(method, "unsupervised", backbone) for method in LOCAL]
  out = config.make(given["dataset"], *parts)
  if given["dataset"] == "synthetic":
    out.categories = ("circuit", "tray")
  return out
