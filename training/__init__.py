"""Fine-tuning: teach a CLIP's text tower to prefer descriptions, from pairs to an adapter."""
