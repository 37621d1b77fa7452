"""The decoder in C++ for CPUs with AVX-512: sources, build and what Python hands over."""
