"""Table VI of the paper, and its Figure 2: every unsupervised method on every category.

  python -m imiad_jax.main --config=configs/table_unsupervised.py:quick
  python -m imiad_jax.main --config=configs/table_unsupervised.py
  python -m imiad_jax.main --config=configs/table_unsupervised.py:methods=padim+stpm,seeds=0
  python -m imiad_jax.main --config=configs/table_unsupervised.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

Quick is two categories of the drawn data set and one seed, without it all six and three seeds. The
drawn data set is learnt with the embedded backbone and hyperparameters that a CPU can pay for, any
other with the backbone and hyperparameters of each method's authors, for which take an accelerator;
`backbone=efficientnet_lite0` overrides that. Features are computed once for each category, backbone
and size. With the first seed the lines also hold the seconds, operations and bytes of scoring.

It costs: quick about 17 minutes on two cores, the whole of the drawn data set about four hours.
Expect nine methods between 0.90 and 0.95 on its structural categories, image by image, and the
others between 0.75 and 0.90: benchmarks/README.md says what is known of each.
"""

from imiad_jax import config

METHODS = (
  *("cfa", "csflow", "cutpaste", "draem", "efficientad", "fastflow", "favae"),
  *("padim", "patchcore", "rd4ad", "simplenet", "softpatch", "spade", "stpm"),
)


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  out = config.table(arg, METHODS, lambda m, b, _: [config.part(m, "unsupervised", b)])
  out.efficiency = True
  return out
