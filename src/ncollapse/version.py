"""The version of this library, readable also from a source tree that is not installed."""

__version__ = "0.2.0"
