"""The pretraining loop, its run folder, states, health check, online evaluation and tracking."""
