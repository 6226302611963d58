"""All that knows Stable-Baselines3's algorithms: policies, buffers, collection and export, and one
file an algorithm."""
