from imiad_jax.datasets.synthetic.synthetic_dataset_builder import Builder  # pyright: ignore[reportMissingImports]

__all__ = ["Builder"]
