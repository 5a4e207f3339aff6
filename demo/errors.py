"""The demo's one exception."""


class DemoError(Exception):
    """A failure that a person can do something about; its message says what."""
