from imiad_jax.datasets.mvtec_ad.mvtec_ad_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
