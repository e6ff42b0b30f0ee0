"""What the concepts of a bundle stand for: measured on annotated parts, shown by photos, named."""

from concepthash.explain.atlasbuild import atlas
from concepthash.explain.atlasdata import Atlas
from concepthash.explain.causality import Causality, cover_parts
from concepthash.explain.comparison import Comparison, compare
from concepthash.explain.curves import Curves, concept_curves
from concepthash.explain.explanation import Explanation, explain_image
from concepthash.explain.keypoints import Annotations, read_annotations
from concepthash.explain.naming import ProposedName, names_from_parts
from concepthash.explain.parts import score_parts
from concepthash.explain.partscores import PartScores
from concepthash.explain.prototypes import ConceptValues, find_prototypes, gallery_prototypes

__all__ = [
    "Annotations",
    "Atlas",
    "Causality",
    "Comparison",
    "ConceptValues",
    "Curves",
    "Explanation",
    "PartScores",
    "ProposedName",
    "atlas",
    "compare",
    "concept_curves",
    "cover_parts",
    "explain_image",
    "find_prototypes",
    "gallery_prototypes",
    "names_from_parts",
    "read_annotations",
    "score_parts",
]
