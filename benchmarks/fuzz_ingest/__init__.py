"""Damaged and hostile files against the decoder; `python -m benchmarks.fuzz_ingest --help`."""
