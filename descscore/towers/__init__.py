"""The towers of an open_clip ``CLIP``, run for features alone: same results, less work, no gradients."""
