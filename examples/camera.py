"""Say what a camera sees: ``python examples/camera.py cub.chb cub.chg --precision int8``.

A camera takes ``pip install opencv-python-headless``; ``--frames FOLDER`` stands in for one.
"""

import argparse
from collections.abc import Iterable, Sequence

from concepthash.errors import ConceptHashError
from concepthash.images import Source, find_images
from concepthash.runtime import Gallery, Hasher


def camera(number: int) -> Iterable[Source]:
    """Its frames, as they come."""
    import cv2

    device = cv2.VideoCapture(number)
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # or what is answered was seen a while ago
    while (frame := device.read())[0]:
        yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)


def main(arguments: Sequence[str] | None = None) -> None:
    """One line a frame: the label of the nearest photo, its distance, that of each concept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="a bundle, or an ONNX file of one")
    parser.add_argument("gallery", help="of that model")
    parser.add_argument("--precision", help="fp32, fp16 or int8; by default the most exact")
    parser.add_argument("--camera", type=int, default=0, help="its number")
    parser.add_argument("--frames", help="a folder of photos instead")
    given = parser.parse_args(arguments)
    frames = find_images([given.frames]) if given.frames else camera(given.camera)
    hasher = Hasher(given.bundle, precision=given.precision, batch_size=1)
    with Gallery.open(given.gallery) as gallery:
        gallery.check_model(hasher.fingerprint)
        index, names = gallery.index(), hasher.bundle.manifest.concept_names
        for hashed in hasher.hash(frames):  # in threads, up to four frames ahead
            if hashed.code is None or not len(index):
                print(f"no answer: {hashed.error or 'the gallery is empty'}", flush=True)
                continue
            hits = index.search(hashed.code, k=1)
            label = gallery.entry(int(hits.ids[0, 0])).label
            concepts = zip(names, hits.per_concept[0, 0], strict=True)
            told = " ".join(f"{name}={distance}" for name, distance in concepts)
            print(f"{label}  {hits.distances[0, 0]}  {told}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ConceptHashError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
