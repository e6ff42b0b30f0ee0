"""Published hashing methods on the frozen features of one backbone: what a trained network beats.

To add a method, write a function :class:`~concepthash.learn.baselines.method.Fit` and give it a
name in ``registry.BASELINES``; ``compare`` does the rest.
"""
