"""Descriptions against captions of the same image: preference, hostile texts, probability."""
