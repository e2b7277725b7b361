"""Encoder + dataset folder -> embeddings folder."""
