"""What every test may count on."""

import signal

# Whoever starts the tests with nohup, or a shell in the background, has them ignore these: what they start is to hear.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
