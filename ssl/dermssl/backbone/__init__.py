"""timm encoders: build, load, export, and the one embedding of images."""
