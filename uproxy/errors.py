"""Every exception that uproxy raises on purpose.

Network life (refused, reset, timed out) is a value, `CloseReason`, and never comes by here.
"""


class UproxyError(Exception):
    """A failure with a message fit for a person; the command line prints it and exits 1."""


class CommandFailed(UproxyError):
    """A program that uproxy ran (ip, nft, ipset...) ended badly or is not installed."""


class AddressesExhausted(UproxyError):
    """The service CIDR has no free address left."""
