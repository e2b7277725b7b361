"""Dataset folder -> batches of augmented views: sampler, crops, colour, loader."""
