"""The command line. Every command is thin: it wires rooms together and says how it went by its exit status.

0 equivalent or precision floor, 1 another verdict, 2 bad input (one line on stderr), 3 the tool failed,
130 interrupted."""

from ckptdbg.cli.app import app, main
from ckptdbg.cli.compare import exit_status
from ckptdbg.cli.demo import was_found

__all__ = ["app", "exit_status", "main", "was_found"]
