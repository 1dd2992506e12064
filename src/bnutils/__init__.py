"""Batch normalization, measured: helpers shared by the chapters and by readers' own models."""

__version__ = "0.1.0"
