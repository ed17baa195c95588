"""The neural image: FLUX.1 with LoRAs, trained, composed and drawn with PyTorch."""
