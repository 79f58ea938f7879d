"""Why two models differ where the mapping is right: what one defines otherwise than the other."""
