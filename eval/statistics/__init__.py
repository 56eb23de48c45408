"""Correlations, proportions and reliability, with intervals that respect clusters of items."""
