"""The registry of generators: MLflow model versions, and the aliases that say what each is."""

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
