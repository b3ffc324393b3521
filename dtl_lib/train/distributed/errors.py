"""What one of several processes ends with; `heartbeat.py` decides which. Free of torch, for the command line."""


class RankError(ValueError):
    """Wrong input or data that one of several processes has met; the message says which."""


class PeerLost(RuntimeError):
    """A process does not answer any more; the message names it and its host."""


class SilentExit(RuntimeError):
    """This process ends because of another, which has printed why."""
