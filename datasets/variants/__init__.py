from imiad_jax.datasets.variants.variants_dataset_builder import Builder  # pyright: ignore[reportMissingImports]

__all__ = ["Builder"]
