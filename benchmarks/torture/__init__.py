"""Under fire: what is done to ``chash`` on purpose, and what it must not lose.

``python -m benchmarks.torture [--seconds N] [--only NAME]... [--seed S]``, about 25 minutes by
default. A part is a module of this package, listed in ``__main__.PARTS`` with its share of the
time, that has one function::

    def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part

- ``budget_seconds``: the part ends soon after it, whatever it has done by then; what has a fixed
  size (10,000 images) takes the share of it that fits, and says how much that was. With a second
  or two it still does each of its kinds once, for the test that keeps it from rotting.
- ``rng``: all that is drawn comes from it, so that a seed repeats a run.
- ``folder``: empty, the part's own, deleted afterwards. Data is made there, by
  :mod:`concepthash.demo` or :func:`benchmarks.torture.report.bundle`; nothing from elsewhere.
- it returns a :class:`benchmarks.torture.report.Part`: figures, failures, and what was left out
  and why. It does not raise for what broke, so that the rest is still tried; an exception is a
  failure too. It calls :func:`benchmarks.torture.report.say` as it goes.

Each part runs in a process of its own: one that crashes is a failure of that part alone.
"""
