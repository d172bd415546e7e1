"""Networks, losses, training and image metrics: torch, numpy and safetensors only."""
