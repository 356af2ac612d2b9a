"""Seawall: container images out of a tree of files, with no registry on the read path."""

__version__ = "0.1.0"
