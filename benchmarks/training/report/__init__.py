"""The tables and figures of README.md, from the rows that `benchmarks.training.run` has stored: `make bench-report`.

    python -m benchmarks.training.report                      # README.md, figures/, results/summary.json
    python -m benchmarks.training.report --rows FILE --print  # on the screen, nothing is written

The replicate is the seed. All methods share a seed's task, base model, order of prompts and held-out prompts, so that
methods are compared within (task, seed), and an interval is Student's t over the seeds' differences.
"""
