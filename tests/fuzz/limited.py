"""What every fuzzed call has to keep to: one clear line at worst, within seconds, and in less than 2 GB."""

import faulthandler
import json
import os
import resource
import signal
import sys
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dtl_lib.cli.main import failure_of

FACTOR = int(os.environ.get("DTL_FUZZ", "1"))  # 1 is about a minute in all, 60 an hour
SECONDS, MEMORY = 30, 2 * 2**30  # of one example, however busy the machine; of the process, beyond what it had before
STUCK = 4 * SECONDS  # after which the process is ended: code in C, or a thread that is waited for, hears no signal

NASTY_TEXT = (
    "", " ", "nan", "inf", "-1", "1e999", "../..", "~nosuchuser/x", "/dev/zero", "pipe:touch fuzzed", "hfds/x",
    "$\\frac{$", "<svg onload=alert(1)>", "\x1b[2J", "a\0b", "\ud800", "‮", "a" * 5000, "`rm`", "{a..z}",
    "%s%n", "1" * 5000,
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 300), st.floats(), st.sampled_from((2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e300, 5e-324)),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(NASTY_TEXT), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def examples(count: int):
    """The settings of a fuzz test: so many examples, times what DTL_FUZZ says."""
    return settings(
        max_examples=count * FACTOR, deadline=None, derandomize=FACTOR == 1, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


class Late(BaseException):
    """No Exception: what is tried may catch those, and hypothesis would take minutes to make the example smaller."""


@contextmanager
def limited():
    """Fails where the body raises anything but what the command line says in a line, takes too long, or too much."""

    def late(*_):
        raise Late(f"not done after {SECONDS} s")

    before, handler = _peak(), signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(STUCK, exit=True, file=sys.__stderr__)
    try:
        yield
    except Exception as error:
        failure = None if isinstance(error, AssertionError) else failure_of(error)
        if failure is None:
            raise
        assert failure.status == 2 and failure.message.strip() and len(failure.message) < 2_000, failure
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert _peak() - before < MEMORY, f"{_peak() - before:,} bytes"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def changed(draw, values, depth: int = 3):
    """`values`, plain and nested, with one place in them changed, left out or added to."""
    values = json.loads(json.dumps(values))
    place = values
    for _ in range(depth):
        inside = [name for name, value in place.items() if isinstance(value, dict) and value]
        if not inside or draw(st.booleans()):
            break
        place = place[draw(st.sampled_from(inside))]
    how = draw(st.integers(0, 5))
    if how == 0:
        place[draw(st.text(max_size=8))] = draw(VALUES)
    elif place:
        name = draw(st.sampled_from(sorted(place)))
        if how == 1:
            del place[name]
        else:
            place[name] = draw(VALUES)
    return values
