"""Neural source separation behind one contract: MDX-Net (ONNX), HTDemucs, BS- and Mel-Band-Roformer.

`chain.separate_song` is the way in: vocals and instrumental, main and backing vocals, and the room taken off.
"""
