"""``chash bench``: how fast, how large and how exact each artefact of a bundle is on this machine.

Every pair of an artefact and a back end lives in a process of its own (:mod:`.worker`), so that a
native crash costs one row, and the thread pools of two libraries never spin beside each other. The
parent lets one of them work at a time, in turns.
"""
