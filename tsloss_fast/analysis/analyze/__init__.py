"""Saved prompts, adapters and tensors: their clouds, their numbers, and `tsloss analyze`."""
