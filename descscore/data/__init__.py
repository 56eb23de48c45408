"""Readers of image, description and caption tables."""
