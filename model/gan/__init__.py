"""The networks of MSG-GAN and MSG-SAGAN, their images, and a generator on disk."""

# The files of a training; here, for who looks at them needs no torch.
WEIGHTS, CONFIG, DISCRIMINATOR = "generator.safetensors", "config.json", "discriminator.safetensors"
