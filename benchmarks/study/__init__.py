"""The study whether a topological loss helps prompt tuning. `tsloss compare` runs a design, and
`python -m tsloss_fast.benchmarks.study.page` writes the published page.
"""
