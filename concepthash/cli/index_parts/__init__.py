"""The parts of ``chash index``: what else is done to a gallery, one module each."""
