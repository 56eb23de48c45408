"""Training of the bundled base from scratch."""
