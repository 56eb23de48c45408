"""Explain a score: word by word, through the purpose subspace, and on the image."""
