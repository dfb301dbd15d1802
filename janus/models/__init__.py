"""Models: backbones and where their matrices stand, the adapted layer, adapters in PEFT's format, exports as plain timm weights."""
