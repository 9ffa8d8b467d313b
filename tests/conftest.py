"""What every test needs."""

import signal

# A shell that starts a job in the background has it ignore Ctrl-C, which every process below would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
