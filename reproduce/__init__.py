"""What made the bundled model, the experiments and the pages of figures. Not installed."""
