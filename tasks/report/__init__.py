"""Stage `report`: the page, the verdict and its gates."""
