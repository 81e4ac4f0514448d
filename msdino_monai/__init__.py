"""Chest X-ray and 3D segmentation models, trained across hospitals without pooling images."""

__version__ = "0.1.0"
