from imiad_jax.datasets.mvtec_loco.mvtec_loco_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
