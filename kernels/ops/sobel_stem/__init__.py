"""The fused Sobel convolution."""
