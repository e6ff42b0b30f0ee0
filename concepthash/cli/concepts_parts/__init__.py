"""The parts of ``chash concepts``: what is done to the names of concepts, one module each."""
