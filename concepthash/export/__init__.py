"""From a training run to a bundle, checked in bits and ranks. Needs the extra ``export``."""

if __name__ != "concepthash.export":
    raise ImportError("import concepthash.export: the link at the top is a view for people")
