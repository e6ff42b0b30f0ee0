"""Run every measurement that this machine has the data for; each writes its own JSON."""

from benchmarks import decode, search, start, training

for module in (decode, search, start, training):
    print(f"== {module.__name__}", flush=True)
    module.main()
