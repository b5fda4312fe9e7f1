"What all tests rely on"

import signal


def pytest_configure(config):
    """Ctrl-C interrupts, here and in the processes that tests start.

    A script's background job inherits that it is ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
