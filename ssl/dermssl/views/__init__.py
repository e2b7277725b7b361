"""Dataset folder -> batches of augmented views: sampler, crops, photometric changes, loader."""
