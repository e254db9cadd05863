"""The thin asynchronous shell: events in, desired state to targets."""
