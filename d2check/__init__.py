"""A training health checker for Detectron2."""

__version__ = "0.1.0"
