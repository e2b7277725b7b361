"""Views -> loss: one file per method, and a registry that lists them."""
