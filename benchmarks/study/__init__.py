"""The study whether a topological loss helps prompt tuning: designs, runs, tables and the page.

`tsloss compare` runs a design (`command`), and `python -m tsloss_fast.benchmarks.study.page` writes
the published page. The package does not import anything of this folder.
"""
