"""Stage `ingest`: a folder of radiographs and their labels to a curated, pseudonymous, split image set."""
