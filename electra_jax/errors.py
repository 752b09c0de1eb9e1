"""What goes wrong in a way the user can mend: one sentence, no traceback."""


class UserError(Exception):
    """A wrong input or setting. The message is one sentence: what, where, and what to do."""

    exit_code = 2


class MachineError(UserError):
    """The machine failed, not the user: a full disk, a damaged file, a lost device."""

    exit_code = 1
