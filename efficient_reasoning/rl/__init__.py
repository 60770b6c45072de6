"""What TRL's reinforcement learning lacks."""
