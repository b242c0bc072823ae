"""Damaged and hostile files against every reader of the package."""
