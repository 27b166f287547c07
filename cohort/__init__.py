"""Folders and tables of slides too large for one machine: the same predictor on Ray Data."""
