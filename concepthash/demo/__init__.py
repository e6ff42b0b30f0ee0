"""A drawn data set: look-alike birds, any number, every part and key point known.

Needs numpy and Pillow only. :func:`write_dataset` makes a folder to train on; :func:`draw_bird`
makes one picture, and, as the species changes nothing else in it, also answers what a picture
would be with another wing or beak.
"""

from concepthash.demo.bird import KEY_POINTS, PARTS
from concepthash.demo.dataset import DemoSummary, write_dataset
from concepthash.demo.draw import Drawing, KeyPoint, draw_bird
from concepthash.demo.sample import BIRDS, sample_birds
from concepthash.demo.species import LOOKS, MAX_SPECIES, Species, species

__all__ = [
    "BIRDS",
    "KEY_POINTS",
    "LOOKS",
    "MAX_SPECIES",
    "PARTS",
    "DemoSummary",
    "Drawing",
    "KeyPoint",
    "Species",
    "draw_bird",
    "sample_birds",
    "species",
    "write_dataset",
]
