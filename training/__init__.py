"""Training: the bundled base, and tuning a CLIP to prefer descriptions."""
