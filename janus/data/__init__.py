"""Data: the image sets by name, where their images come from, and the streams made of them.

Also how images are decoded and drawn.
"""
