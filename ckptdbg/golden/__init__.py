"""Golden references that fit into git: sketches of a source, and files of golden logits."""
