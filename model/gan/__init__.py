"""The networks of MSG-GAN and MSG-SAGAN, their images, and a generator on disk."""
