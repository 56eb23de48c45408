"""Training of the bundled base on a pretrained image tower."""
