"""What every test may count on."""

import signal

import pytest

# Whoever starts the tests with nohup, or a shell in the background, has them ignore these: what they start is to hear.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """A test whose name has an address in it has another name in each process, and then none of them runs."""
    if nameless := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{nameless[0]}: give its parameters ids that are the same in every process")
