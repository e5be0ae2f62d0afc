"""The tokens of a vocabulary that are nearest to points, and their names."""
