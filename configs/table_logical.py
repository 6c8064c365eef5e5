"""Table VII of the paper: logical anomalies, where every part is good and the whole is not.

  python -m imiad_jax.main --config=configs/table_logical.py:quick
  python -m imiad_jax.main --config=configs/table_logical.py
  python -m imiad_jax.main --config=configs/table_logical.py:dataset=mvtec_loco \\
    --config.data_dir=<folder>

GCAD, which sees the whole image, beside methods that see patches of it. Quick is one seed of the
two logical categories of the drawn data set, without it three seeds; of any other data set all
categories. The drawn data set is learnt with the embedded backbone and hyperparameters that a CPU
can pay for, any other with those of each method's authors, for which take an accelerator;
`backbone=efficientnet_lite0` overrides that.

It costs: quick about 15 minutes on two cores, the whole of the drawn data set an hour. Expect
RD4AD and PaDiM in front of GCAD there, and GCAD in front of all others.
"""

from imiad_jax import config

METHODS = (
  *("cfa", "csflow", "efficientad", "fastflow", "gcad", "padim"),
  *("patchcore", "rd4ad", "simplenet", "spade", "stpm"),
)
LOGICAL = ("circuit", "tray")  # of the drawn data set


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  out = config.table(arg, METHODS, lambda m, b, _: [config.part(m, "unsupervised", b)])
  if out.dataset == "synthetic":
    out.categories = LOGICAL
  return out
