"""Where an attack gets its logits and gradients."""
