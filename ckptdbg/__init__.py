"""ckptdbg: finds where, and in which mapping entry, a converted model checkpoint goes wrong."""
