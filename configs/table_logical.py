"""Table VII of the paper: logical anomalies, where every part is good and the whole is not.

  python -m imiad_jax.main --config=configs/table_logical.py:quick
  python -m imiad_jax.main --config=configs/table_logical.py
  python -m imiad_jax.main --config=configs/table_logical.py:dataset=synthetic
  python -m imiad_jax.main --config=configs/table_logical.py:dataset=mvtec_loco \\
    --config.data_dir=<folder>

GCAD, which sees the whole image, beside methods that see patches of it, on the drawn products that
come in variants: "logical" is the image AUROC of those whose two ends do not belong together,
"damage" that of scratches, holes and the like. Of the data set `synthetic` the two assembled
categories are taken, of any other all. Quick is one seed, without it three. Drawn data are learnt
with the embedded backbone and hyperparameters that a CPU can pay for, any other with those of each
method's authors, for which take an accelerator; `backbone=efficientnet_lite0` overrides that.

It costs, on two cores: quick 17 minutes, the whole of the drawn products 35 with `launch/local.py
--workers=2` (66 runs). Expect GCAD in front; the methods that compare patches at chance where parts
are mismatched, for each of these is as it should be; and SPADE, whose score of an image is of one
vector of all of it, not far behind GCAD. Of circuit and tray, where each part has its place, expect
RD4AD and PaDiM in front of GCAD, and GCAD in front of all others.
"""

from imiad_jax import config

METHODS = (
  *("cfa", "csflow", "efficientad", "fastflow", "gcad", "padim"),
  *("patchcore", "rd4ad", "simplenet", "spade", "stpm"),
)
ASSEMBLED = ("circuit", "tray")  # of the data set synthetic


def variants(method: str, backbone: str, quick: bool):
  """Returns a method, unsupervised."""
  del quick
  return [config.part(method, "unsupervised", backbone)]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  out = config.table(arg, METHODS, variants, dataset="variants")
  if out.dataset == "synthetic":
    out.categories = ASSEMBLED
  return out
