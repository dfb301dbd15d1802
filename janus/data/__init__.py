"""Data: the image sets by name, where their images come from, how they are decoded and drawn, and the streams made of them."""
