"""Whether a topological loss helps: methods × tasks × seeds, trained side by side and compared.

`tsloss compare` is the way in. Needs the extra `tuning`: pip install "tsloss-fast[tuning]".
"""
