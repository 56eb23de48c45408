"""Score pairs in a stream: decode ahead, encode in batches, keep the order."""
