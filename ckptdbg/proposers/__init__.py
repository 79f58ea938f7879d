"""Settling a proposal: by the target's own tensors, by running both models; and asking a language model for one."""
