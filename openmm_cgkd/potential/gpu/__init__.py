"""The operators on a GPU, in Triton.

Imported on their first call there, so that nothing else needs Triton.
"""
