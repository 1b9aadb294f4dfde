"""The long-running process: start, work, signals, watchdog, stop."""
