"""``chash`` in a process that is killed at the beginning of its second epoch, for tests.

Run by torchrun with the number of that process and the arguments of ``chash``.
"""

import os
import signal
import sys

from concepthash.cli.main import run
from concepthash.learn.loop import Trainer

whole = Trainer._epoch


def epoch(self, *arguments):
    if self.epoch == 1 and self.team.rank == int(victim):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)


victim = sys.argv.pop(1)
Trainer._epoch = epoch
run()
