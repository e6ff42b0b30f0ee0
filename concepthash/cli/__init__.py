"""The command line ``chash``: one module a verb, thin; heavy imports inside the commands."""

if __name__ != "concepthash.cli":
    raise ImportError("import concepthash.cli: the link at the top is a view for people")
