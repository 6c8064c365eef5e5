"""What global features find: GCAD with each global network, beside methods that see patches.

  python -m imiad_jax.main --config=configs/ablation_global_features.py

runs on the two drawn categories in which parts can be missing, extra or exchanged, with a small
pretrained network, in three minutes on two cores. The logical anomalies of MVTec LOCO with the
methods' own hyperparameters are

  python -m imiad_jax.main --config=configs/ablation_global_features.py:dataset=mvtec_loco \\
    --config.data_dir=<folder>

for which take an accelerator. The results say of each kind of defect how well it is told from
normal images. With `:branches` the methods that have no global network are left out.
"""

from imiad_jax import config
from imiad_jax.methods import gcad

LOCAL = ("patchcore", "padim", "cfa")


def get_config(arg: str | None = None):
  """Returns the config for "dataset=,backbone=,branches="."""
  given = config.parse(arg, dataset="synthetic", backbone="", branches="")
  drawn = given["dataset"] == "synthetic"
  backbone = given["backbone"] or ("efficientnet_lite0" if drawn else "paper")
  parts = [config.part("gcad", "unsupervised", backbone, branch=b) for b in gcad.BRANCHES]
  if not given["branches"]:
    parts += [config.part(method, "unsupervised", backbone) for method in LOCAL]
  out = config.make(given["dataset"], *parts)
  if drawn:
    out.categories = ("circuit", "tray")
  return out
