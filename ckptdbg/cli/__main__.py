"""`python -m ckptdbg.cli` is `ckptdbg`."""

from ckptdbg.cli import main

main()
