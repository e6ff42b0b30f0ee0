"""`chash serve`: a gallery and its model behind HTTP, with a page to look at them.

The engine (:mod:`concepthash.serve.engine`) answers; what faces the network stands before it.
"""
