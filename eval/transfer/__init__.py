"""What a model can still do as a CLIP: retrieval, grounding, zero-shot classes."""
