"""The embedded language model: llama.cpp inside this process."""
