"""Run the towers of an open_clip model with less work and the same features."""
