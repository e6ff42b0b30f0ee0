"""What the concepts of a bundle stand for, measured on annotated parts; needs no torch."""

from concepthash.explain.causality import Causality, cover_parts
from concepthash.explain.curves import Curves, concept_curves
from concepthash.explain.keypoints import Annotations, read_annotations
from concepthash.explain.parts import score_parts
from concepthash.explain.partscores import PartScores

__all__ = [
    "Annotations",
    "Causality",
    "Curves",
    "PartScores",
    "concept_curves",
    "cover_parts",
    "read_annotations",
    "score_parts",
]
