"""The collector of garbage, and what is none."""

import gc


def settle() -> None:
    """Keep the collector from walking again and again what is there now: what the first list made stays, and
    at 10,000 Services a walk takes longer than a query may."""
    gc.collect()
    gc.freeze()
