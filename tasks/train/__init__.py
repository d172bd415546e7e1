"""Stage `train@NAME`: one generator from the real train split."""
