"""The test laboratory: real engines, hosts and registries that leave nothing behind.

Everything here runs below `tests/lab/sandbox`, which ends whatever is still alive.  The modules end
what they start as soon as it is not needed, but nothing depends on that.
"""
