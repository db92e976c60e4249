"""`make demo`: a tiny language model trained for best-of-N, from nothing to a table, in minutes on a CPU."""
