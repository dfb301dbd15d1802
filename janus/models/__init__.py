"""Models: backbones, where their q, k, v, … matrices are, the adapted layer.

Also PEFT's format, and exports as plain timm weights.
"""
