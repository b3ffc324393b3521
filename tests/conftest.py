"""What every test may count on, and which tests wait for `--slow`."""

import signal

import pytest

SLOW_FOLDERS = ("processes", "web")  # several processes that train together; a browser

# Whoever starts the tests with nohup, or a shell in the background, has them ignore these: what they start is to hear.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    """`make test SLOW=1` sets it."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    """Slow tests skip without `--slow`.

    A test whose name has an address in it has another name in each process, and then none of them runs.
    """
    if nameless := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{nameless[0]}: give its parameters ids that are the same in every process")
    if not config.getoption("slow"):
        for item in items:
            if item.get_closest_marker("slow") or item.path.parent.name in SLOW_FOLDERS:
                item.add_marker(pytest.mark.skip(reason="slow: 'make test SLOW=1' runs it, or pytest with --slow"))
