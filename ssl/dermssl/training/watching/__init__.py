"""What is seen of a run: online evaluation, pictures, trackers, health, model card."""
