"""The one exception that users are meant to read."""


class ForgetError(ValueError):
    """Input that cannot be used; the message says what was expected, what came and what to do next."""
