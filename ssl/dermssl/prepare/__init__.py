"""Raw folder -> dataset folder: sources, decoding, measuring, group ids."""
