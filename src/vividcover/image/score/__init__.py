"""How good pictures are: fit to the prompt, likeness to photographs of the subject, sharpness, variety."""
