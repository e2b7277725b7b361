"""Views -> loss: DINO, SimCLR, their heads and schedules."""
