"""What goes wrong in a way the user can mend: one sentence, no traceback."""

import signal


class UserError(Exception):
    """A wrong input or setting. The message is one sentence: what, where, and what to do."""

    exit_code = 2


class MachineError(UserError):
    """The machine failed, not the user: a full disk, a damaged file, a lost device."""

    exit_code = 1


class Interrupted(UserError):
    """SIGTERM or Ctrl-C arrived, and the state has been saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; step {step} is saved, the same command goes on")
        self.exit_code = 128 + signum
