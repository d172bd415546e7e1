"""The networks of MSG-GAN and MSG-SAGAN, their images, and a generator on disk."""

WEIGHTS, CONFIG = "generator.safetensors", "config.json"  # its files; here, for who looks at them needs no torch
