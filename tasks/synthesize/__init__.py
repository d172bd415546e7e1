"""Stage `synthesize@NAME`: images of a generator, without copies of films."""
