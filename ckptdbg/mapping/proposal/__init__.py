"""A mapping proposed from names, shapes and config alone, and what these leave open."""

from ckptdbg.mapping.proposal.choices import Alternative, Choice
from ckptdbg.mapping.proposal.plan import Item
from ckptdbg.mapping.proposal.proposal import Proposal, propose

__all__ = ["Alternative", "Choice", "Item", "Proposal", "propose"]
