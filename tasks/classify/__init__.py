"""Stage `classify`: classifiers with and without synthetic images, compared on real patients."""
