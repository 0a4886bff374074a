"""Images: safe decoding of untrusted files, and the model's view of an image."""
