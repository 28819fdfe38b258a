"""Studies that are no part of the package: run them from the root of a clone.

python -m studies.methods         controls and the package's methods on one simulation
python -m studies.criteo          the table of `tfalloc reproduce criteo` with our methods
python -m studies.real_trials     the usual settings on three real trials
"""
