"""Work on many machines through Ray, which coordinates them; imported by verbs that are asked to.

``start`` connects, ``hashing`` has photos hashed by each ``worker``, ``serving`` answers queries.
"""
