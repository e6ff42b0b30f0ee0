"""ConceptHash: explainable fine-grained visual search that costs 8 bytes an image."""

__version__ = "0.1.0"
