"""A language model as the proposer: off unless asked for, and what it says is only a mapping that has to bind."""

from ckptdbg.proposers.llm.ask import ask_for_mapping
from ckptdbg.proposers.llm.clients import CLIENTS, Chat

__all__ = ["CLIENTS", "Chat", "ask_for_mapping"]
