"""How a generator is trained."""
