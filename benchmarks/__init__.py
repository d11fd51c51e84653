"""What steering costs: ratios of running times within one run, by `make bench` or `python -m benchmarks`.

A ratio compares two calls in the same process, timed in turns, so that it says the same on a fast and a slow machine.
Nothing here is a test: the bars are printed beside the ratios, and the exit code is 0 whether they hold or not.
"""
