"""A complete service that needs nothing but two wheels: a small model and llama.cpp's own HTTP server."""
