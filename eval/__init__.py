"""Measuring models and metrics against data and people."""
