"""The neural singing portrait: Sonic (Ji et al. 2024, arXiv:2411.16331), read from its published weights.

hear      vocals → whisper features → 32 tokens and 2 movement numbers for each frame (12.5 a second)
look      still → crop, face mask, latents, one CLIP vector
sample    25 steps over windows of 25 frames, three branches of guidance, windows shifted at each step
show      latents → frames → twice as many by interpolation → one H.264 file, piece by piece
"""
