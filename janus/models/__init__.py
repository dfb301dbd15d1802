"""Models: backbones, where their q, k, v, … matrices are, the adapted layer, PEFT's format, exports as plain timm weights."""
