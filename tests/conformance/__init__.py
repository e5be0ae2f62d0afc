"""What a computation of H0 persistence has to get right, as checks that run against anything.

See README.md in this folder.
"""
